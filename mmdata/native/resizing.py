"""Resizing of interleaved pictures by the compiled kernel, with torch's bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmdata import memory
from mmdata.native.library import AVX2, kernels, level

Bytes = npt.NDArray[np.uint8]
FILTERS = {"bilinear": 0, "bicubic": 1, "lanczos": 2}


def can_resize(frames: Bytes) -> bool:
    """Whether there is a kernel for [T, H, W, 3] of these strides: pixels must follow each other, rows need not.

    >>> can_resize(np.zeros((1, 4, 4, 3), np.uint8)[..., ::-1])
    False
    """
    interleaved = frames.ndim == 4 and frames.shape[3] == 3 and frames.strides[2:] == (3, 1)
    return level() >= AVX2 and interleaved and frames.size > 0


def resize(frames: Bytes, height: int, width: int, filter: str) -> Bytes:
    """uint8 [T, H, W, 3], for which `can_resize`, to [T, height, width, 3], antialiased, rounded after each of two
    passes: `torch.nn.functional.interpolate(..., antialias=True)` of torch 2.14 on processors with AVX2."""
    library = kernels()
    assert library is not None
    assert can_resize(frames)
    if height < 1 or width < 1:
        raise ValueError(f"a picture of {height} x {width} pixels")
    count, rows, columns, _ = frames.shape
    into: Bytes = memory.empty((count, height, width, 3), np.uint8)
    failed = library.mmdata_resize(
        frames.ctypes.data,
        count,
        frames.strides[0],
        frames.strides[1],
        rows,
        columns,
        into.ctypes.data,
        height,
        width,
        FILTERS[filter],
        level(),
    )
    if failed:
        raise MemoryError(f"resizing {rows} x {columns} pixels to {height} x {width}")
    return into
