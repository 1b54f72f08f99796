"""InternVL: tiles of the nearest shape, then a thumbnail; `pixel_values` [tiles of all images, 3, S, S]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdata.families._family import Family, Layout, MediaRule
from mmdata.families._settings import Checkpoint, Settings, frames, pixels, said, side
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views._picture import CLIP_MEAN, CLIP_STD
from mmdata.views.tiles import DynamicTiles
from mmdata.views.video import FrameVideo

PLACEHOLDER = "<IMG_CONTEXT>"
CLASS: dict[str, Any] = {"size": 384, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
"""Of its processors' classes; the published files have others."""


@register("family", "internvl")
def internvl(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `InternVLForConditionalGeneration`: 256 tokens for each tile of 448 pixels between `<img>` marks.

    Image parameters are those of `DynamicTiles`, video parameters those of `FrameVideo` (32 frames, a tile each).
    """
    image = settings.view("image", DynamicTiles, _read)
    video = settings.view(
        "video",
        FrameVideo,
        _read_video,
        rule="internvl",
        num_frames=32,
        size=image.size,
        patch=image.patch,
        pool=image.pool,
        extra=0,
        mean=image.mean,
        std=image.std,
    )
    return Family(
        name="internvl",
        tokenizer=tokenizer,
        media={
            "image": MediaRule(view=image, placeholder=PLACEHOLDER, key="pixel_values", join="concat", layout=_between),
            "video": MediaRule(
                view=video,
                placeholder=PLACEHOLDER,
                marker="<video>",
                key="pixel_values",
                join="concat",
                layout=_numbered,
                before="Frame1: ",
            ),
        },
    )


def _read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    found = said(checkpoint.media["image"], **CLASS)
    patch = checkpoint.vision.get("patch_size")
    ratio = checkpoint.model.get("downsample_ratio")
    return {
        **pixels(found),
        "size": side(found.get("size"), "height", "shortest_edge"),
        "patch": patch[0] if isinstance(patch, list) else patch,
        "pool": None if not ratio else round(1 / ratio),
        "min_tiles": found.get("min_patches"),
        "max_tiles": found.get("max_patches"),
    }


def _read_video(checkpoint: Checkpoint) -> Mapping[str, Any]:
    found = said(checkpoint.media["video"], **CLASS)
    shift = found.get("initial_shift", True)
    shift = None if shift is True else (("initial_shift", shift),)
    return {**pixels(found), "size": side(found.get("size"), "height"), "options": shift, **frames(found)}


def _numbered(plan: MediaPlan) -> Layout:
    """A line for each frame, with its number; the first of them stands before."""
    each = plan.tokens // len(plan.frames)
    pieces: list[str | int] = ["<img>", each]
    for number in range(2, len(plan.frames) + 1):
        pieces += [f"</img>\nFrame{number}: <img>", each]
    return (*pieces, "</img>")


def _between(plan: MediaPlan) -> Layout:
    return "<img>", plan.tokens, "</img>"
