"""Qwen2.5-VL: as Qwen2-VL, with positions in time that follow the seconds between frames."""

from __future__ import annotations

from mmdata.families import _qwen
from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Settings
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaKind
from mmdata.views.qwen import SmartResize
from mmdata.views.video import PatchVideo


@register("family", "qwen2_5_vl")
def qwen2_5_vl(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `Qwen2_5_VLForConditionalGeneration`: as `qwen2_vl`, and `second_per_grid_ts` of each video.

    Image parameters are those of `SmartResize`, video parameters those of `PatchVideo` (2 frames a second).
    """
    image = settings.view("image", SmartResize, _qwen.read_image)
    video = settings.view("video", PatchVideo, _qwen.read_video, fps=2.0, merge=image.merge)
    rules: dict[MediaKind, MediaRule] = {
        "image": _qwen.image_rule(image),
        "video": _qwen.video_rule(video, companions=lambda plan: _qwen.timed_grid(plan, video.temporal)),
    }
    return _qwen.family(
        "qwen2_5_vl",
        tokenizer,
        rules,
        merge=(image.merge, video.merge),
        positions_per_second=_qwen.per_second(settings, "tokens_per_second", 2.0),
    )
