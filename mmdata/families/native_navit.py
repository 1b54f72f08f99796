"""Our own compact model as NaViT sees: a token per patch, sizes and dropped patches drawn anew for each sample."""

from __future__ import annotations

import numpy as np

from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Checkpoint, Settings
from mmdata.families.native import audio_rule
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views.navit import NaViT, kept_coordinates
from mmdata.views.video import PatchVideo


@register("family", "native_navit")
def native_navit(tokenizer: Tokenizer, settings: Settings) -> Family:
    """As `native`, but a token for each patch that is kept: `pixel_values` [patches, 3 * patch^2] in raster order, with
    `patch_coordinates` int64 [patches, 2] (row, column) and `patch_counts` int64 [pictures], a picture being an image
    or a frame of a video; videos drop nothing.

    Parameters are those of `NaViT` (side 256, drawn between 64 and 384), `PatchVideo` (a frame a second, 32 at most,
    256 patches each) and `Mel`.
    """
    image = settings.view("image", NaViT, _nothing)
    video = settings.view(
        "video",
        PatchVideo,
        _nothing,
        patch=image.patch,
        merge=1,
        temporal=1,
        fps=1.0,
        min_frames=1,
        max_frames=32,
        rule="qwen3_vl",
        min_pixels=4 * image.patch**2,
        max_pixels=256 * image.patch**2,
        mean=image.mean,
        std=image.std,
    )
    return Family(
        name="native_navit",
        tokenizer=tokenizer,
        media={
            "image": MediaRule(view=image, placeholder="<image>", key="pixel_values", join="concat", companions=_kept),
            "video": MediaRule(view=video, placeholder="<video>", key="pixel_values", join="concat", companions=_kept),
            "audio": audio_rule(settings),
        },
    )


def _nothing(_: Checkpoint) -> dict[str, object]:
    return {}


def _kept(plan: MediaPlan) -> dict[str, np.ndarray]:
    assert plan.grid is not None, plan
    frames = plan.grid[0]
    return {
        "patch_coordinates": kept_coordinates(plan),
        "patch_counts": np.full(frames, plan.shape[0] // frames, np.int64),
    }
