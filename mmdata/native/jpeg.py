"""Pixels of a JPEG by the compiled kernel, where it finds nothing unusual in the file."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from mmdata import memory
from mmdata.native.library import AVX2, kernels, level

_Told = ctypes.c_int64 * 3
"""Height and width, and the bytes for the values of a progressive file."""


def pixels(data: bytes, channels: int, factor: int = 1) -> npt.NDArray[np.uint8] | None:
    """RGB as libjpeg-turbo makes it at a scale of 1/`factor` (1, 2, 4 or 8), bit for bit: uint8 [ceil(H / factor),
    ceil(W / factor), channels], with 255 as the last of four channels.

    None where the kernel is not there, or the file is damaged, or not as plain encoders write it (arithmetic, more than
    8 bits, samplings other than 4:4:4, 4:2:2 and 4:2:0, colours that are not JFIF's): such files are libjpeg-turbo's.
    """
    told = _told(data)
    if told is None:
        return None
    height, width, _ = told
    made = np.empty((-(-height // factor), -(-width // factor), channels), np.uint8)
    return made if _read(data, told, factor, channels, made.ctypes.data) else None


def whole(data: bytes) -> bool:
    """Whether `pixels` would make a picture of the file; its codes are read for that, and nothing is made of them."""
    told = _told(data)
    return told is not None and _read(data, told, 1, 3, None)


def _told(data: bytes) -> tuple[int, int, int] | None:
    library, told = kernels(), _Told()
    if library is None or level() < AVX2 or not data:
        return None
    if library.mmdata_jpeg_size(np.frombuffer(data, np.uint8).ctypes.data, len(data), told):
        return None
    height, width, room = told
    return height, width, room


def _read(data: bytes, told: tuple[int, int, int], factor: int, channels: int, into: int | None) -> bool:
    library = kernels()
    assert library is not None
    file = np.frombuffer(data, np.uint8).ctypes.data
    height, width, room = told
    values = memory.empty((room,), np.uint8) if room else None
    place = None if values is None else values.ctypes.data
    return not library.mmdata_jpeg(file, len(data), height, width, factor, channels, into, place, level())
