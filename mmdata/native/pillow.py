"""Pillow's `resize` and `reduce` of RGB pictures: by compiled kernels with Pillow's bits, and by Pillow itself.

The kernels read arrays, uint8 [H, W, 3]; Pillow keeps four bytes a pixel in memory of its own, into which an array has
to be copied, and back. So who has the choice asks `by_kernels` whether an array or a Pillow image is resized sooner.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from mmdata import memory
from mmdata.native.library import AVX2, kernels, level

Pixels = npt.NDArray[np.uint8]
Picture = Image.Image | Pixels
"""RGB: an image of that mode, or uint8 [H, W, 3]."""
Filter = Literal["hamming", "bicubic", "lanczos"]

FILTERS: tuple[Filter, ...] = ("hamming", "bicubic", "lanczos")
LARGEST_BLOCK = (1 << 23) - 1
"""Pixels in a block of the kernel's `reduce`: of more, the sum leaves 32 bits."""


@functools.cache
def by_kernels() -> bool:
    """Whether arrays are resized by kernels: these have the bits of Pillow 12 and 13."""
    return level() >= AVX2 and _version()[0] in (12, 13)


@functools.cache
def _version() -> tuple[int, int]:
    major, minor = PIL.__version__.split(".")[:2]
    return int(major), int(minor)


def size(picture: Picture) -> tuple[int, int]:
    """(height, width)

    >>> size(np.zeros((2, 5, 3), np.uint8)), size(Image.new("RGB", (5, 2)))
    ((2, 5), (2, 5))
    """
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return picture.shape[0], picture.shape[1]


def resize(picture: Picture, height: int, width: int, filter: Filter, gap: float | None = None) -> Pixels:
    """`picture.resize((width, height), filter, reducing_gap=gap)` of the installed Pillow, as uint8 [height, width, 3].

    >>> resize(np.full((9, 7, 3), 5, np.uint8), 2, 3, "bicubic").tolist()
    [[[5, 5, 5], [5, 5, 5], [5, 5, 5]], [[5, 5, 5], [5, 5, 5], [5, 5, 5]]]
    """
    if height < 1 or width < 1:
        raise ValueError(f"a picture of {height} x {width} pixels")
    if not isinstance(picture, Image.Image) and _taken(picture) and (gap is None or gap >= 1):
        resized = _resized(picture, height, width, filter, gap)
        if resized is not None:
            return resized
    return np.asarray(_image(picture).resize((width, height), Image.Resampling[filter.upper()], reducing_gap=gap))


def reduce(picture: Picture, factor: int) -> Pixels:
    """`picture.reduce(factor)` of the installed Pillow, as uint8 [ceil(H / factor), ceil(W / factor), 3]: means.

    >>> reduce(np.arange(18, dtype=np.uint8).reshape(2, 3, 3), 2).tolist()
    [[[6, 7, 8], [11, 12, 13]]]
    """
    if not isinstance(picture, Image.Image) and _taken(picture) and factor >= 1 and factor**2 <= LARGEST_BLOCK:
        return _reduced(picture, factor, factor)
    return np.asarray(_image(picture).reduce(factor))


def _image(picture: Picture) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)


def _taken(pixels: Pixels) -> bool:
    """Whether the kernels take these strides: pixels must follow each other, rows need not."""
    like = pixels.dtype == np.uint8 and pixels.shape[2:] == (3,) and pixels.strides[1:] == (3, 1)
    return by_kernels() and like and pixels.size > 0


def _resized(pixels: Pixels, height: int, width: int, filter: Filter, gap: float | None) -> Pixels | None:
    """None where the kernel cannot do it: there was no memory, or there are weights that it does not hold."""
    rows, columns = pixels.shape[:2]
    tall = wide = 1
    if gap is not None:
        tall, wide = int(rows / height / gap) or 1, int(columns / width / gap) or 1
    if tall * wide > LARGEST_BLOCK:
        return None
    small = _reduced(pixels, tall, wide) if tall * wide > 1 else pixels
    library = kernels()
    assert library is not None
    into: Pixels = memory.empty((height, width, 3), np.uint8)
    high, broad = size(small)
    failed = library.mmdata_pillow_resize(
        small.ctypes.data,
        small.strides[0],
        high,
        broad,
        rows / tall,  # The last block may be of fewer rows: the picture ends within it.
        columns / wide,
        into.ctypes.data,
        height,
        width,
        FILTERS.index(filter),
        _vertical_first(high, broad, height, width),
        level(),
    )
    return None if failed else into


def _vertical_first(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether this Pillow takes the vertical pass first. The bytes between the passes are others then."""
    if _version() < (12, 2):
        return False
    if _version() < (13, 0):
        return rows > max(height, 100 * columns)
    return rows - height > max(0, 2 * (columns - width))


def _reduced(pixels: Pixels, tall: int, wide: int) -> Pixels:
    rows, columns = pixels.shape[:2]
    library = kernels()
    assert library is not None
    into: Pixels = memory.empty((-(-rows // tall), -(-columns // wide), 3), np.uint8)
    library.mmdata_pillow_reduce(
        pixels.ctypes.data, pixels.strides[0], rows, columns, tall, wide, into.ctypes.data, level()
    )
    return into
