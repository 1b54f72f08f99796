"""Qwen3-VL: patches of 16 pixels, and before every two frames of a video the second at which they are shown."""

from __future__ import annotations

import functools

from mmdata.families import _qwen
from mmdata.families._family import Family, Layout
from mmdata.families._settings import Settings
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views._picture import HALF
from mmdata.views.qwen import SmartResize
from mmdata.views.video import PatchVideo, timestamps


@register("family", "qwen3_vl")
def qwen3_vl(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `Qwen3VLForConditionalGeneration`: `pixel_values` [patches, 1536], `image_grid_thw` and the same
    for videos.

    Image parameters are those of `SmartResize`, video parameters those of `PatchVideo` (2 frames a second; times are
    true ones, or with `clock: index` the frame number over the rate, as Hugging Face's processor writes them).
    Each patch in time has vision markers of its own, and there are none around the whole video: so the checkpoints
    were trained. transformers 5.23 keeps the chat template's outer pair as well.
    """
    image = settings.view(
        "image", SmartResize, _qwen.read_image, patch=16, min_pixels=65_536, max_pixels=16_777_216, mean=HALF, std=HALF
    )
    video = settings.view(
        "video",
        PatchVideo,
        functools.partial(_qwen.read_video, factor=32),
        rule="qwen3_vl",
        variant="qwen3_vl",
        patch=16,
        merge=image.merge,
        fps=2.0,
        mean=HALF,
        std=HALF,
    )

    def stamped(plan: MediaPlan) -> Layout:
        """After a `<`, seconds, then the placeholders of one patch in time between vision markers, and so on."""
        assert plan.grid is not None, plan
        each = plan.tokens // plan.grid[0]
        pieces: list[str | int] = []
        for at, seconds in enumerate(timestamps(plan, temporal=video.temporal)):
            before = f"{_qwen.END}<" if at else ""
            pieces += [f"{before}{seconds:.1f} seconds>{_qwen.START}", each]
        return (*pieces, _qwen.END)

    return _qwen.family(
        "qwen3_vl",
        tokenizer,
        {"image": _qwen.image_rule(image), "video": _qwen.video_rule(video, layout=stamped, before="<")},
        merge=(image.merge, video.merge),
    )
