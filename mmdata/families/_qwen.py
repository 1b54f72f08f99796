"""What the Qwen-VL families share: patches in one long array with `grid_thw`, and markers around each medium."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmdata.errors import DataError, SpecError
from mmdata.families._family import Arrays, Family, Layout, MediaRule, Positions, View
from mmdata.families._settings import Checkpoint, Settings, pixels, said
from mmdata.templates import Tokenizer
from mmdata.types import MediaKind, MediaPlan
from mmdata.views._picture import CLIP_MEAN, CLIP_STD

IMAGE_CLASS: dict[str, Any] = {"patch_size": 14, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
"""Of `Qwen2VLImageProcessor`, which Qwen3-VL has as well."""
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
START, END = "<|vision_start|>", "<|vision_end|>"


def image_rule(view: View, placeholder: str = IMAGE, marks: tuple[str, str] = (START, END)) -> MediaRule:
    """Images: all placeholders between the vision markers."""
    return MediaRule(
        view=view,
        placeholder=placeholder,
        marker=marks[0] + placeholder + marks[1],
        key="pixel_values",
        join="concat",
        layout=lambda plan: (marks[0], plan.tokens, marks[1]),
        companions=lambda plan: {"image_grid_thw": np.array([plan.grid], np.int64)},
    )


def video_grid(plan: MediaPlan) -> Arrays:
    """`video_grid_thw` int64 [1, 3]."""
    return {"video_grid_thw": np.array([plan.grid], np.int64)}


def timed_grid(plan: MediaPlan, temporal: int, name: str = "second_per_grid_ts") -> Arrays:
    """The grid, and float32 [1] how many seconds one patch in time spans."""
    return {**video_grid(plan), name: np.array([seconds_per_patch(plan, temporal)], np.float32)}


def seconds_per_patch(plan: MediaPlan, temporal: int) -> float:
    """`temporal` frames at the rate at which the video was sampled. Raises DataError where its duration is unknown."""
    if plan.seconds is None:
        raise DataError("no_facts", "the duration of the video is not known; build the dataset with a `probe` step")
    return temporal * plan.seconds / len(plan.frames)


def video_rule(
    view: View,
    *,
    placeholder: str = VIDEO,
    marks: tuple[str, str] = (START, END),
    layout: Callable[[MediaPlan], Layout] | None = None,
    before: str = "",
    companions: Callable[[MediaPlan], Arrays] = video_grid,
) -> MediaRule:
    """Videos: as images, unless `layout` says otherwise."""
    return MediaRule(
        view=view,
        placeholder=placeholder,
        marker=marks[0] + placeholder + marks[1],
        key="pixel_values_videos",
        join="concat",
        layout=layout or (lambda plan: (marks[0], plan.tokens, marks[1])),
        before=before,
        companions=companions,
    )


def family(
    name: Positions,
    tokenizer: Tokenizer,
    rules: Mapping[MediaKind, MediaRule],
    *,
    merge: tuple[int, int],
    positions_per_second: float | None = None,
    type_ids: str | None = "mm_token_type_ids",
) -> Family:
    """The row of a family whose rule of positions has its own name. `merge` are those of images and of videos."""
    if merge[0] != merge[1]:
        raise SpecError(f"merge: {merge[0]} for images and {merge[1]} for videos; the model has one for both")
    return Family(
        name=name,
        tokenizer=tokenizer,
        media=rules,
        positions=name,
        merge=merge[0],
        positions_per_second=positions_per_second,
        type_ids=type_ids,
        token_types={"image": 1, "video": 2} if type_ids else {},
    )


def per_second(settings: Settings, name: str, usual: float) -> float | None:
    """How many positions a second of a video has by the checkpoint's vision tower; None for the `usual`."""
    found = None if settings.checkpoint is None else settings.checkpoint.vision.get(name)
    return None if found is None or found == usual else float(found)


def read_image(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Parameters of `SmartResize`."""
    found = said(checkpoint.media["image"], **IMAGE_CLASS)
    return {**_patches(found), **_limits(found, 56 * 56, 1280 * 28 * 28)}


def read_video(checkpoint: Checkpoint, factor: int = 28) -> Mapping[str, Any]:
    """Parameters of `PatchVideo`. The limits of the processor's class are 128 and 768 tokens of `factor` pixels."""
    found = checkpoint.media["video"]
    return {
        **_patches(found),
        **_limits(found, 128 * factor**2, 768 * factor**2),
        "num_frames": found.get("num_frames"),
        "fps": found.get("fps"),
        "min_frames": found.get("min_frames"),
        "max_frames": found.get("max_frames"),
        "cap_pixels_per_frame": found.get("cap_pixels_per_frame"),
        "max_video_tokens": found.get("max_video_tokens"),
    }


def _patches(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **pixels(found),
        "patch": found.get("patch_size"),
        "merge": found.get("merge_size"),
        "temporal": found.get("temporal_patch_size"),
    }


def _limits(found: Mapping[str, Any], least: int, most: int) -> dict[str, Any]:
    """Pixel limits: `size` in version 5 (its "edges" are areas), `min_pixels` and `max_pixels` before; of a file that
    says neither, those of the class."""
    size = found.get("size") or {}
    low = found.get("min_pixels") or size.get("shortest_edge")
    high = found.get("max_pixels") or size.get("longest_edge")
    if found and low is None and (high or most) >= least:
        low = least
    if found and high is None and most >= (low or least):
        high = most
    return {"min_pixels": low, "max_pixels": high}
