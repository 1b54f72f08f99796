"""What the Qwen-VL families share: patches in one long array with `grid_thw`, and markers around each medium."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdata.families._family import Layout
from mmdata.families._settings import Checkpoint, pixels
from mmdata.types import MediaPlan

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
START, END = "<|vision_start|>", "<|vision_end|>"


def marker(placeholder: str) -> str:
    """What the chat templates write for one image or video."""
    return f"{START}{placeholder}{END}"


def between(plan: MediaPlan) -> Layout:
    """All placeholders between the vision markers."""
    return START, plan.tokens, END


def image_grid(plan: MediaPlan) -> dict[str, np.ndarray]:
    """`image_grid_thw` int64 [1, 3]."""
    return {"image_grid_thw": np.array([plan.grid], np.int64)}


def video_grid(plan: MediaPlan) -> dict[str, np.ndarray]:
    """`video_grid_thw` int64 [1, 3]."""
    return {"video_grid_thw": np.array([plan.grid], np.int64)}


def read_image(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Parameters of `SmartResize`."""
    return {**_patches(checkpoint.media["image"]), **_limits(checkpoint.media["image"])}


def read_video(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Parameters of a `Video` view of patches."""
    found = checkpoint.media["video"]
    return {
        **_patches(found),
        **_limits(found),
        "fps": found.get("fps"),
        "min_frames": found.get("min_frames"),
        "max_frames": found.get("max_frames"),
    }


def _patches(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **pixels(found),
        "patch": found.get("patch_size"),
        "merge": found.get("merge_size"),
        "temporal": found.get("temporal_patch_size"),
    }


def _limits(found: Mapping[str, Any]) -> dict[str, Any]:
    """Pixel limits: `size` in version 5 (its "edges" are areas), `min_pixels` and `max_pixels` before."""
    size = found.get("size") or {}
    return {
        "min_pixels": found.get("min_pixels") or size.get("shortest_edge"),
        "max_pixels": found.get("max_pixels") or size.get("longest_edge"),
    }
