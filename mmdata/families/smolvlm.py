"""SmolVLM: images split as Idefics3's, videos as single pictures, each with the minute and second it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from mmdata.errors import DataError
from mmdata.families import _splits
from mmdata.families._family import Family, Layout, MediaRule
from mmdata.families._settings import Checkpoint, Settings, pixels, said, side
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan
from mmdata.views._picture import HALF
from mmdata.views.tiles import SplitImage
from mmdata.views.video import FrameVideo, elapsed

UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TOLD = "You are provided the following series of"
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@register("family", "smolvlm")
def smolvlm(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `SmolVLMForConditionalGeneration`: keys and image parameters as `idefics3`, 64 tokens for each
    tile of 512 pixels; video parameters are those of `FrameVideo` (1 frame a second, 64 at most).
    """
    image = settings.view("image", SplitImage, _splits.read, size=512, patch=16, pool=4, longest_edge=2048)
    video = settings.view(
        "video",
        FrameVideo,
        _read_video,
        rule="smolvlm",
        num_frames=64,
        fps=1.0,
        filter="lanczos",
        size=image.size,
        patch=image.patch,
        pool=image.pool,
        extra=0,
        longest_edge=image.longest_edge,
        mean=HALF,
        std=HALF,
    )
    return Family(
        name="smolvlm",
        tokenizer=tokenizer,
        media={
            "image": MediaRule(
                view=image,
                placeholder=_splits.PLACEHOLDER,
                key="pixel_values",
                join="row",
                layout=_splits.tiles,
                companions=_splits.mask,
            ),
            "video": MediaRule(
                view=video,
                placeholder=_splits.PLACEHOLDER,
                marker="<video>",
                key="pixel_values",
                join="row",
                layout=_told,
                before=TOLD,
                after="\n\n",
                companions=_splits.mask,
            ),
        },
    )


def _read_video(checkpoint: Checkpoint) -> Mapping[str, Any]:
    sampling = checkpoint.media["video"].get("video_sampling") or {}
    usual = {"max_image_size": 364, "size": sampling.get("video_size") or {"longest_edge": 1456}}
    found = said(checkpoint.media["video"], **usual)
    return {
        **pixels(found),
        "size": side(found.get("max_image_size"), "longest_edge"),
        "longest_edge": side(found.get("size"), "longest_edge"),
        "fps": sampling.get("fps") or found.get("fps"),
        "num_frames": sampling.get("max_frames") or found.get("num_frames"),
    }


def _told(plan: MediaPlan) -> Layout:
    """After `TOLD`, how many frames of how long a video follow; then each frame with its time."""
    if plan.seconds is None:
        raise DataError("no_facts", "the duration of the video is not known; build the dataset with a `probe` step")
    each = plan.tokens // len(plan.frames)
    lasting = timedelta(seconds=int(plan.seconds))
    count = in_words(len(plan.frames))
    before = f" {count} frames from a {lasting} [H:MM:SS] video.\n"
    pieces: list[str | int] = []
    for seconds in elapsed(plan):
        shown = f"\nFrame from {int(seconds // 60):02d}:{int(seconds % 60):02d}:"
        pieces += [before + shown + _splits.FAKE + _splits.GLOBAL, each]
        before = _splits.FAKE
    return (*pieces, _splits.FAKE)


def in_words(number: int) -> str:
    """An English number word, 0 to 999.

    >>> in_words(8), in_words(64), in_words(105)
    ('eight', 'sixty-four', 'one hundred and five')
    """
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    small = UNITS[rest] if rest < 20 else TENS[tens] + (f"-{UNITS[ones]}" if ones else "")
    if not hundreds:
        return small
    return f"{UNITS[hundreds]} hundred" + (f" and {small}" if rest else "")
