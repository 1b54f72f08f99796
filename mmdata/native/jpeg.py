"""Pixels of a baseline JPEG by the compiled kernel, where it finds nothing unusual in the file."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from mmdata.native.library import AVX2, kernels, level

_Sides = ctypes.c_int64 * 2


def pixels(data: bytes, channels: int) -> npt.NDArray[np.uint8] | None:
    """RGB as libjpeg-turbo makes it, bit for bit: uint8 [H, W, channels], with 255 as the last of four channels.

    None where the kernel is not there, or the file is damaged, or not as plain encoders write it (progressive,
    arithmetic, more than 8 bits, samplings other than 4:4:4, 4:2:2 and 4:2:0, colours that are not JFIF's): such files
    are libjpeg-turbo's.
    """
    library = kernels()
    if library is None or level() < AVX2:
        return None
    sides, size = _Sides(), len(data)
    file = np.frombuffer(data, np.uint8).ctypes.data if size else None
    if library.mmdata_jpeg_size(file, size, sides):
        return None
    made = np.empty((*sides, channels), np.uint8)
    failed = library.mmdata_jpeg(file, size, *sides, channels, made.ctypes.data, level())
    return None if failed else made
