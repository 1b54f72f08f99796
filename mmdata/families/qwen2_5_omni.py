"""Qwen2.5-Omni's thinker: images and videos as Qwen2.5-VL, audio as Qwen2-Audio, one clock for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdata.families import _mel, _qwen
from mmdata.families._family import Family, Layout, MediaRule
from mmdata.families._settings import Checkpoint, Settings
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaKind, MediaPlan
from mmdata.views.qwen import SmartResize
from mmdata.views.video import PatchVideo

IMAGE, VIDEO, AUDIO = "<|IMAGE|>", "<|VIDEO|>", "<|AUDIO|>"
SEEN, HEARD = ("<|vision_bos|>", "<|vision_eos|>"), ("<|audio_bos|>", "<|audio_eos|>")


@register("family", "qwen2_5_omni")
def qwen2_5_omni(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `Qwen2_5OmniThinkerForConditionalGeneration`: keys of `qwen2_vl`, `video_second_per_grid`,
    `input_features` and `feature_attention_mask`.

    Parameters are those of `SmartResize`, `PatchVideo` (2 frames a second) and `Mel` (30 seconds unless a checkpoint
    says otherwise; what is longer is cut, or with `chunk` heard in pieces). A video's own sound is not mixed
    into its tokens; give it as an audio of its own.
    """
    image = settings.view("image", SmartResize, _qwen.read_image)
    video = settings.view("video", PatchVideo, _read_video, fps=2.0, merge=image.merge)
    audio = _mel.view_of(settings, n_mels=128, tokens="qwen2_5_omni")
    rules: dict[MediaKind, MediaRule] = {
        "image": _qwen.image_rule(image, IMAGE, SEEN),
        "video": _qwen.video_rule(
            video,
            placeholder=VIDEO,
            marks=SEEN,
            companions=lambda plan: _qwen.timed_grid(plan, video.temporal, "video_second_per_grid"),
        ),
        "audio": MediaRule(
            view=audio,
            placeholder=AUDIO,
            marker=HEARD[0] + AUDIO + HEARD[1],
            key=_mel.KEY,
            join=_mel.join(audio),
            layout=_heard,
            companions=_mel.mask,
        ),
    }
    return _qwen.family(
        "qwen2_5_omni",
        tokenizer,
        rules,
        merge=(image.merge, video.merge),
        type_ids=None,
    )


def _read_video(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """As Qwen2.5-VL's, but for the limits of a frame, 128 and 768 tokens: the processor has them itself and passes
    over those of its files, which are pictures'."""
    return {**_qwen.read_video(checkpoint), "min_pixels": None, "max_pixels": None}


def _heard(plan: MediaPlan) -> Layout:
    return HEARD[0], plan.tokens, HEARD[1]
