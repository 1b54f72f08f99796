"""Our own compact model with a tower of fixed size: every picture and frame becomes one square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Checkpoint, Settings, pixels, square
from mmdata.families.native import audio_rule
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.views.fixed import Fixed
from mmdata.views.video import FrameVideo


@register("family", "native_fixed")
def native_fixed(tokenizer: Tokenizer, settings: Settings) -> Family:
    """Squares for any tower that takes `pixel_values` [N, 3, S, S] (CLIP, SigLIP, DINOv2, ViT); frames of videos are
    `pixel_values_videos` [frames, 3, S, S].

    Parameters are those of `Fixed`, `FrameVideo` (8 frames, squashed) and `Mel`; a checkpoint's image processor says
    which size, statistics and filter, and whether pictures are cropped (CLIP) or squashed (SigLIP).
    """
    image = settings.view("image", Fixed, _read)
    video = settings.view(
        "video",
        FrameVideo,
        _nothing,
        rule="uniform",
        num_frames=8,
        size=image.side,
        patch=image.patch,
        pool=image.pool,
        extra=0,
        filter=image.filter,
        mean=image.mean,
        std=image.std,
    )
    return Family(
        name="native_fixed",
        tokenizer=tokenizer,
        media={
            "image": MediaRule(view=image, placeholder="<image>", key="pixel_values"),
            "video": MediaRule(view=video, placeholder="<video>", key="pixel_values_videos", join="concat"),
            "audio": audio_rule(settings),
        },
    )


def _nothing(_: Checkpoint) -> dict[str, object]:
    return {}


def _read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    found = checkpoint.media["image"]
    return {**pixels(found), **square(found)}
