"""Our own compact model: patches at their own size, sound as far as it lasts, nothing padded."""

from __future__ import annotations

import numpy as np

from mmdata.families import _mel
from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Checkpoint, Settings
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views._picture import HALF
from mmdata.views.mel import Mel
from mmdata.views.qwen import SmartResize
from mmdata.views.video import PatchVideo


@register("family", "native")
def native(tokenizer: Tokenizer, settings: Settings) -> Family:
    """Patches of 16 pixels, four to a token, `pixel_values` [patches, 768] with `image_grid_thw`; videos the same,
    frame by frame; `input_features` [N, n_mels, frames] filled up to the longest, with `audio_frames` int64 [N].

    Parameters are those of `SmartResize` (4 to 1,024 tokens), `PatchVideo` (1 frame a second, 32 at most) and `Mel`
    (80 bins, a token for every four frames; with `trim: false` 30 seconds of frames, of which `audio_frames` hold
    sound).
    """
    image = settings.view(
        "image",
        SmartResize,
        _nothing,
        patch=16,
        temporal=1,
        min_pixels=4 * 32 * 32,
        max_pixels=1024 * 32 * 32,
        rule="qwen_vl_utils",
        mean=HALF,
        std=HALF,
    )
    video = settings.view(
        "video",
        PatchVideo,
        _nothing,
        patch=image.patch,
        merge=image.merge,
        temporal=1,
        fps=1.0,
        min_frames=1,
        max_frames=32,
        rule="qwen3_vl",
        min_pixels=4 * 32 * 32,
        max_pixels=256 * 32 * 32,
        mean=HALF,
        std=HALF,
    )
    return Family(
        name="native",
        tokenizer=tokenizer,
        media={
            "image": MediaRule(view=image, placeholder="<image>", key="pixel_values", join="concat", companions=_grid),
            "video": MediaRule(view=video, placeholder="<video>", key="pixel_values", join="concat", companions=_grid),
            "audio": audio_rule(settings),
        },
    )


def audio_rule(settings: Settings) -> MediaRule:
    """Sounds of all the native families."""
    view = settings.view("audio", Mel, _nothing, tokens="qwen2_audio", trim=True)
    return MediaRule(view=view, placeholder="<audio>", key=_mel.KEY, join="pad", companions=_frames)


def _nothing(_: Checkpoint) -> dict[str, object]:
    return {}


def _grid(plan: MediaPlan) -> dict[str, np.ndarray]:
    return {"image_grid_thw": np.array([plan.grid], np.int64)}


def _frames(plan: MediaPlan) -> dict[str, np.ndarray]:
    return {"audio_frames": np.array([_mel.heard(plan)], np.int64)}
