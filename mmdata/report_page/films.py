"""What a video looks like: a few of its frames with the times at which they are shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmdata.errors import DataError
from mmdata.report_page.pictures import MOST_PIXELS, Picture, encoded
from mmdata.types import Media

FRAMES = 6
SIDE = 128
"""Longest side of a frame on the page, in pixels."""
WALKED_PIXELS = 16_000_000
"""Pixels that are decoded to reach a frame that is shown; where its key frame lies further back, that is shown."""
WALK = (16, 300)
"""The least and the most frames that this may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    picture: Picture
    seconds: float
    """From the first frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Without frames, `why` says so."""

    frames: tuple[Frame, ...] = ()
    why: str = ""


def filmstrip(media: Media, count: int = FRAMES) -> Film:
    """`count` frames of a video, evenly spread over its length."""
    from mmdata.decode import packets as tables
    from mmdata.decode.video import pictures, read_packets

    try:
        packets = media.packets if media.packets is not None else read_packets(media)
        times, keys = tables.seconds(packets), tables.keyframes(packets)
        area = (media.height or 720) * (media.width or 1280)
        walk = min(max(WALKED_PIXELS // area, WALK[0]), WALK[1])
        wanted = chosen(len(times), np.asarray(keys), count, walk)
        found = pictures(media, wanted, packets=packets, max_pixels=MOST_PIXELS)
        frames = tuple(Frame(picture=_small(pixels), seconds=at - float(times[0])) for at, pixels in found)
    except DataError as error:
        return Film(why=f"no preview: {error.reason}")
    except Exception as error:  # a decoder may raise anything on hostile bytes; a missing preview is no failure
        return Film(why=f"no preview: {type(error).__name__}")
    return Film(frames=frames, why="" if frames else "no preview: no frame")


def chosen(frames: int, keys: np.ndarray, count: int, walk: int) -> list[int]:
    """Which of `frames` are shown: the middles of `count` equal stretches, or the last key frame before one, where
    more than `walk` frames lie between them.

    >>> chosen(60, np.array([0]), 3, 30), chosen(6000, np.array([0, 900, 2980, 4000]), 3, 30)
    ([0, 10, 30], [900, 3000, 4000])
    >>> chosen(2, np.array([0]), 3, 30)
    [0, 1]
    """
    middles = [(2 * at + 1) * frames // (2 * count) for at in range(count)] if frames > count else range(frames)
    found = []
    for middle in middles:
        before = keys[keys <= middle]
        key = int(before[-1]) if len(before) else 0
        found.append(middle if middle - key <= walk else key)
    return sorted(set(found))


def _small(pixels: np.ndarray) -> Picture:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.HAMMING, reducing_gap=1.5)
    return encoded(image, quality=72)
