"""What steps do with every picture of a sample: measure it, or replace it by one with other pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmdata.types import Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

Pixels = npt.NDArray[np.uint8]
QUALITY = 95
LUMA = (19595, 38470, 7471)
"""BT.601 in 65,536ths, as Pillow converts to `L`."""


def images(sample: Sample) -> Iterator[Media]:
    return (media for media in sample.media if media.kind == "image")


def grey(pixels: Pixels) -> Pixels:
    """Brightness of RGB u8[H, W, 3]: u8[H, W], bit for bit Pillow's `convert("L")`."""
    red, green, blue = (pixels[..., at].astype(np.uint32) for at in range(3))
    made: Pixels = ((LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 0x8000) >> 16).astype(np.uint8)
    return made


def reduced(pixels: Pixels, longest: int) -> Pixels:
    """Averaged over whole squares, so that no side is longer than `longest`; rows and columns that fill no square are
    left out. u8[H, W] or u8[H, W, 3]."""
    side = -(-max(pixels.shape[:2]) // longest)
    side = min(side, *pixels.shape[:2])
    if side <= 1:
        return pixels
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    blocks = pixels[: rows * side, : columns * side].reshape(rows, side, columns, side, *pixels.shape[2:])
    made: Pixels = (blocks.sum(axis=(1, 3), dtype=np.uint32) // side**2).astype(np.uint8)
    return made


def changed(sample: Sample, work: Work, change: Callable[[Media, Pixels], Pixels | None]) -> Sample:
    """The sample with other pixels where `change` answers some: encoded once, lossless formats as PNG, JPEG as JPEG and
    WebP as WebP of quality 95. Where it answers None the bytes stay."""
    from mmdata.decode import image

    parts = list(sample.parts)
    for at, part in enumerate(parts):
        if not isinstance(part, Media) or part.kind != "image":
            continue
        pixels = change(part, work.pixels(part))
        if pixels is None:
            continue
        assert part.data is not None  # `work.pixels` has read it.
        format = image.family(part.data, work.header(part), alpha=False)
        parts[at] = replace(
            part,
            data=image.encode(pixels, format, QUALITY),
            format=format,
            height=pixels.shape[0],
            width=pixels.shape[1],
            mode="L" if pixels.ndim == 2 else "RGB",
            frames=1,
        )
    return replace(sample, parts=tuple(parts))
