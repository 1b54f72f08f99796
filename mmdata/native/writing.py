"""Pixels into planes and rows of patches by the compiled kernels, normalised as they are written."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from mmdata.native.library import kernels, level

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""What is taken off a channel's bytes, and what they are divided by then: float32 values, three each."""


def can_write() -> bool:
    """Whether the kernels were compiled; they run on every processor."""
    return kernels() is not None


@functools.lru_cache(maxsize=64)
def _normal(constants: Constants) -> Bytes:
    library = kernels()
    assert library is not None
    normal = np.zeros(library.mmdata_normal_size(), np.uint8)
    shift, scale = (np.array(values, np.float32) for values in constants)
    library.mmdata_normal(normal.ctypes.data, shift.ctypes.data, scale.ctypes.data)
    return normal


def write_planes(pixels: Bytes, into: Floats | Bytes, constants: Constants | None, *, read_late: bool = False) -> None:
    """uint8 [3, H, W] of any strides into a contiguous [3, H, W]: float32 (value - shift) / scale with `constants`,
    else uint8 as they are; past the processor's caches if that is `read_late`. Raises ValueError for arrays of other
    shapes and types."""
    _check(pixels, into, constants)
    if pixels.ndim != 3 or pixels.shape[0] != 3 or into.shape != pixels.shape or not into.flags.c_contiguous:
        raise ValueError(f"planes {into.shape} of pixels {pixels.shape}")
    library = kernels()
    assert library is not None
    _, rows, columns = pixels.shape
    normal = None if constants is None else _normal(constants)
    library.mmdata_planes(
        pixels.ctypes.data,
        *pixels.strides,
        rows,
        columns,
        None if normal is None else normal.ctypes.data,
        into.ctypes.data,
        level(),
        read_late,
    )


def write_patches(
    frames: Bytes,
    into: Floats | Bytes,
    *,
    size: int,
    merge: int,
    temporal: int,
    channels_last: bool,
    constants: Constants | None,
    read_late: bool = False,
) -> None:
    """uint8 [T, 3, H, W] of any strides into rows of patches [N, D], whose values follow each other: blocks of `merge`
    by `merge` patches of `size` by `size` pixels of `temporal` frames, each [3, temporal, size, size] or
    [temporal, size, size, 3]. One frame stands for `temporal` of them. `read_late`: past the processor's caches. Raises
    ValueError for what does not fit."""
    _check(pixels=frames, into=into, constants=constants)
    count, channels, rows, columns = frames.shape
    block = size * merge
    times = 1 if count == 1 else count // temporal
    fits = rows % block == columns % block == 0 and (count == 1 or count % temporal == 0) and channels == 3
    patches = times * (rows // size) * (columns // size)
    if not fits or into.shape != (patches, 3 * temporal * size * size) or into.strides[1] != into.itemsize:
        raise ValueError(f"rows {into.shape} of frames {frames.shape} in patches of {temporal} x {size} x {size}")
    library = kernels()
    assert library is not None
    normal = None if constants is None else _normal(constants)
    library.mmdata_patches(
        frames.ctypes.data,
        *frames.strides,
        count,
        rows,
        columns,
        size,
        merge,
        temporal,
        channels_last,
        None if normal is None else normal.ctypes.data,
        into.ctypes.data,
        into.strides[0] // into.itemsize,
        level(),
        read_late,
    )


def _check(pixels: Bytes, into: Floats | Bytes, constants: Constants | None) -> None:
    if pixels.dtype != np.uint8 or into.dtype != (np.uint8 if constants is None else np.float32):
        raise ValueError(f"{pixels.dtype} pixels into {into.dtype}")
    if not into.flags.writeable:
        raise ValueError("what is written to is read-only")
