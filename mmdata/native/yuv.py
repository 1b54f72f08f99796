"""Frames of 4:2:0 video to RGB by the compiled kernel, with the bits of FFmpeg's libswscale."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mmdata.native.library import AVX2, kernels, level

Bytes = npt.NDArray[np.uint8]
FULL_RANGE = 2
"""AVCOL_RANGE_JPEG (FFmpeg, libavutil/pixfmt.h)."""
_MATRICES = {
    **dict.fromkeys((0, 2, 3, 5, 6), (104597, 132201, 25675, 53279)),
    1: (117489, 138438, 13975, 34925),
    4: (104448, 132798, 24759, 53109),
    7: (117579, 136230, 16907, 35559),
    9: (110013, 140363, 12277, 42626),
}
"""Of each AVColorSpace red of V, blue of U, green of U and of V, in 65536ths, of video whose luma goes from 16 to 235:
`ff_yuv2rgb_coeffs` (libswscale/yuv2rgb.c). What is not said to be anything is taken for BT.601."""


class Plane(Protocol):
    """As PyAV has them, `av.video.plane.VideoPlane`."""

    @property
    def buffer_ptr(self) -> int: ...
    @property
    def buffer_size(self) -> int: ...
    @property
    def line_size(self) -> int: ...


class Matrix(NamedTuple):
    """What the kernel is told, and where it lies."""

    values: npt.NDArray[np.int16]
    address: int


@functools.cache
def matrix(colorspace: int, color_range: int) -> Matrix | None:
    """What `to_rgb` is told of frames with these of FFmpeg's numbers; None where there is no kernel for them.
    As `ff_yuv2rgb_c_init_tables` computes it."""
    if level() < AVX2 or colorspace not in _MATRICES:
        return None
    factors = list(_MATRICES[colorspace])
    luma, black = 1 << 16, 0
    if color_range == FULL_RANGE:
        factors = [factor * 224 // 255 for factor in factors]
    else:
        luma, black = luma * 255 // 219, 16 << 16
    red, blue, green_blue, green_red = factors
    numbers = [value * 8192 for value in (luma, red, blue, -green_red, -green_blue)]
    rounded = [(value + (1 << 15)) >> 16 for value in (*numbers, black * 8)]
    values = np.array(rounded, np.int16)
    return Matrix(values, values.ctypes.data)


def to_rgb(planes: Sequence[Plane], matrix: Matrix, into: Bytes, *, read_late: bool = False) -> None:
    """Y of [H, W] and U and V of [(H + 1) // 2, (W + 1) // 2], uint8 whose rows are `line_size` apart, into RGB
    [H, W, 3]; past the processor's caches if that is `read_late`. Raises ValueError for planes that are smaller, and
    for an `into` that is not contiguous."""
    # After each frame the caches are the decoder's, and a line of Python takes ten times what it takes in a loop: so
    # there is as little as can be, and the planes do not become arrays.
    luma, blue, red = planes
    height, width, channels = into.shape
    flags, half = into.flags, (height + 1) // 2
    if channels != 3 or into.itemsize != 1 or not flags.c_contiguous or not flags.writeable:
        raise ValueError(f"a picture is a contiguous uint8 [H, W, 3], not {into.dtype} {into.shape}")
    if (
        min(luma.line_size - width, 2 * blue.line_size - width, 2 * red.line_size - width) < 0
        or luma.buffer_size < luma.line_size * height
        or min(blue.buffer_size - blue.line_size * half, red.buffer_size - red.line_size * half) < 0
    ):
        raise ValueError(f"planes for a smaller picture than {height} x {width}")
    library = kernels()
    assert library is not None
    room = ctypes.create_string_buffer(6 * width) if read_late else None
    library.mmdata_yuv(
        luma.buffer_ptr,
        blue.buffer_ptr,
        red.buffer_ptr,
        luma.line_size,
        blue.line_size,
        red.line_size,
        height,
        width,
        matrix.address,
        into.ctypes.data,
        room,
        level(),
    )
