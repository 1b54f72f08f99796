"""Qwen2-VL: images and videos of their own size as patches, positions in time, height and width."""

from __future__ import annotations

from mmdata.families import _qwen
from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Settings
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaKind
from mmdata.views.qwen import SmartResize
from mmdata.views.video import PatchVideo


@register("family", "qwen2_vl")
def qwen2_vl(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `Qwen2VLForConditionalGeneration`: `pixel_values` [patches, 1176], `image_grid_thw` and the same
    for videos.

    Image parameters are those of `SmartResize`, video parameters those of `PatchVideo` (2 frames a second).
    """
    image = settings.view("image", SmartResize, _qwen.read_image)
    video = settings.view("video", PatchVideo, _qwen.read_video, fps=2.0, merge=image.merge)
    rules: dict[MediaKind, MediaRule] = {"image": _qwen.image_rule(image), "video": _qwen.video_rule(video)}
    return _qwen.family("qwen2_vl", tokenizer, rules, merge=(image.merge, video.merge))
