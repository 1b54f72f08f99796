"""What a medium without pixels of its own looks like in small: a video its first frame, a sound its outline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmdata.types import Media

Pixels = npt.NDArray[np.uint8]
SHOWN_SECONDS = 30.0
INK, PAPER = (70, 90, 160), (244, 244, 248)


def of(data: bytes, media: Media, *, side: int, max_pixels: int) -> Pixels | None:
    """A likeness of a video or a sound, whose bytes are `data`; None where there is none to be had."""
    try:
        return first_frame(media, max_pixels) if media.kind == "video" else outline(data, side)
    except Exception:  # a decoder may raise anything on hostile bytes; a missing picture is no failure
        return None


def first_frame(media: Media, max_pixels: int) -> Pixels:
    """The upright first frame that is shown, uint8 [H, W, 3]. Raises DataError as `video.pictures` does."""
    from mmdata.decode.video import pictures

    _, pixels = next(iter(pictures(media, [0], max_pixels=max_pixels)))
    return pixels


def outline(data: bytes, side: int) -> Pixels:
    """The least and the largest sample of each of `side` equal stretches of the first `SHOWN_SECONDS`, uint8
    [side / 2, side, 3], the loudest as high as the picture. Raises DataError as `audio.first_samples` does."""
    from mmdata.decode.audio import first_samples

    wave, _ = first_samples(data, SHOWN_SECONDS)
    height = side // 2
    drawn = np.full((height, side, 3), PAPER, np.uint8)
    ends = np.linspace(0, len(wave), side + 1).astype(np.int64)
    middle, peak = (height - 1) / 2, float(np.abs(wave).max(initial=0.0)) or 1.0
    for column, (start, end) in enumerate(zip(ends[:-1], np.maximum(ends[1:], ends[:-1] + 1), strict=True)):
        part = wave[start:end]
        low, high = (float(part.min()), float(part.max())) if len(part) else (0.0, 0.0)
        top, bottom = round(middle - middle * high / peak), round(middle - middle * low / peak)
        drawn[top : bottom + 1, column] = INK
    return drawn
