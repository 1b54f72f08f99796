"""Frames of 4:2:0 video to RGB by the compiled kernel, with the bits of FFmpeg's libswscale."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from mmdata.native.library import avx512, kernels

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


@functools.cache
def matrix(colorspace: int, color_range: int) -> Bytes | None:
    """What `to_rgb` is told of frames with these of FFmpeg's numbers; None where there is no kernel for them.
    As `ff_yuv2rgb_c_init_tables` computes it."""
    if not avx512() or colorspace not in _MATRICES:
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
    return np.array(rounded, np.int16).view(np.uint8)


def to_rgb(planes: tuple[Bytes, Bytes, Bytes], matrix: Bytes, into: Bytes) -> None:
    """Y [H, W], U and V [(H + 1) // 2, (W + 1) // 2], uint8, whose values follow each other in a row, into RGB
    [H, W, 3]. Raises ValueError for planes that do not fit each other."""
    luma, blue, red = planes
    height, width = luma.shape
    half = (height + 1) // 2, (width + 1) // 2
    if blue.shape != half or red.shape != half or into.shape != (height, width, 3):
        raise ValueError(f"planes {[plane.shape for plane in planes]} for a picture {into.shape}")
    if not luma.strides[1] == blue.strides[1] == red.strides[1] == 1 or into.strides[1:] != (3, 1):
        raise ValueError("pixels must follow each other")
    if not luma.dtype == blue.dtype == red.dtype == into.dtype == np.uint8 or len(matrix) != 12:
        raise ValueError("bytes are what is read and written")
    if not into.flags.writeable:
        raise ValueError("what is written to is read-only")
    library = kernels()
    assert library is not None
    addresses = [of.__array_interface__["data"][0] for of in (luma, blue, red, matrix, into)]
    library.mmdata_yuv(
        *addresses[:3], luma.strides[0], blue.strides[0], red.strides[0], height, width, *addresses[3:], into.strides[0]
    )
