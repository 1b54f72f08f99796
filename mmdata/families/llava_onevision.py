"""LLaVA-OneVision: AnyRes up to nine tiles' worth for one image, a square for each of several, pooled video frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmdata.errors import SpecError
from mmdata.families import llava_next
from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Checkpoint, Settings, pads_with_mean, pixels, said, side
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views._picture import CLIP_MEAN, CLIP_STD, HALF
from mmdata.views.anyres import ONEVISION, AnyRes
from mmdata.views.video import FrameVideo

STATISTICS = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
"""Of its processors' classes; the published files have others."""


@register("family", "llava_onevision")
def llava_onevision(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `LlavaOnevisionForConditionalGeneration` with SigLIP-so400m/14 at 384 pixels.

    Image parameters are those of `AnyRes`, video parameters those of `FrameVideo`: 32 frames of every video, some of
    them twice where there are fewer, because the model takes `pixel_values_videos` [N, frames, 3, S, S] only.
    """
    view = settings.view("image", AnyRes, _read, size=384, pinpoints=ONEVISION, anyres_max=9, mean=HALF, std=HALF)
    video = settings.view(
        "video",
        FrameVideo,
        _read_video,
        num_frames=32,
        repeat=True,
        size=view.size,
        patch=view.patch,
        mean=view.mean,
        std=view.std,
    )
    if video.num_frames is None:
        raise SpecError("video: the model takes as many frames of every video; give num_frames")
    return Family(
        name="llava_onevision",
        tokenizer=tokenizer,
        media={
            "image": MediaRule(
                view=view,
                several=replace(view, tiling=False),
                placeholder="<image>",
                key="pixel_values",
                join="pad",
                companions=llava_next.image_sizes,
            ),
            "video": MediaRule(view=video, placeholder="<video>", key="pixel_values_videos"),
        },
        companions=_number_of_images,
    )


def _read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    pads_with_mean(checkpoint.media["image"])
    # The model cuts the features of tiles by its own; the processor's counts placeholders, and is the same.
    ratio = str(checkpoint.model.get("vision_aspect_ratio") or checkpoint.processor.get("vision_aspect_ratio") or "")
    return {
        **llava_next.read(checkpoint, size=384, **STATISTICS),
        "anyres_max": int(ratio.removeprefix("anyres_max_")) if ratio.startswith("anyres_max_") else None,
    }


def _read_video(checkpoint: Checkpoint) -> Mapping[str, Any]:
    found = said(checkpoint.media["video"], size=384, **STATISTICS)
    return {**pixels(found), "size": side(found.get("size"), "height"), "num_frames": found.get("num_frames")}


def _number_of_images(plans: Sequence[MediaPlan]) -> dict[str, np.ndarray]:
    """int64 [1]: how many images the sample has; the model cuts tiles out of a single one only."""
    count = sum(plan.kind == "image" for plan in plans)
    return {"batch_num_images": np.array([count], np.int64)} if count else {}
