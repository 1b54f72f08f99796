"""The compiled kernels, if there are any: C that is compiled when the package is installed, where there is a compiler.

Without one, or on a processor that they do not know, torch, numpy, libjpeg-turbo and libsndfile do their work: the same
bits, more slowly.
`MMDATA_NATIVE=0` in the environment does without them, `MMDATA_NATIVE=avx2` without those that need more than AVX2.
"""

from __future__ import annotations

import ctypes
import functools
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

VERSION = 14
"""That of native.h. A library of another one, compiled before its sources changed, is as good as none."""
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES = {
    "mmdata_resize": (ctypes.c_int, [_POINTER, *[_INT] * 5, _POINTER, _INT, _INT, ctypes.c_int, ctypes.c_int]),
    "mmdata_pillow_reduce": (None, [_POINTER, *[_INT] * 5, _POINTER, ctypes.c_int]),
    "mmdata_pillow_resize": (
        ctypes.c_int,
        [_POINTER, *[_INT] * 3, *[ctypes.c_double] * 2, _POINTER, _INT, _INT, *[ctypes.c_int] * 3],
    ),
    "mmdata_yuv": (None, [*[_POINTER] * 3, *[_INT] * 5, *[_POINTER] * 3, ctypes.c_int]),
    "mmdata_near": (ctypes.c_int, [*[_POINTER] * 3, _INT, _INT, _POINTER, _POINTER, ctypes.c_int]),
    "mmdata_flac_sums": (None, [_POINTER]),
    "mmdata_flac": (
        ctypes.c_int,
        [_POINTER, _INT, _POINTER, _INT, _INT, _POINTER, ctypes.c_int, _POINTER, ctypes.c_int],
    ),
    "mmdata_jpeg_size": (ctypes.c_int, [_POINTER, _INT, _POINTER]),
    "mmdata_jpeg": (ctypes.c_int, [_POINTER, *[_INT] * 3, *[ctypes.c_int] * 2, _POINTER, _POINTER, ctypes.c_int]),
    "mmdata_normal_size": (_INT, []),
    "mmdata_normal": (None, [_POINTER] * 3),
    "mmdata_planes": (None, [_POINTER, *[_INT] * 5, _POINTER, _POINTER, ctypes.c_int, ctypes.c_int]),
    "mmdata_patches": (
        None,
        [_POINTER, *[_INT] * 10, ctypes.c_int, _POINTER, _POINTER, _INT, ctypes.c_int, ctypes.c_int],
    ),
}
AVX2, AVX512 = 1, 2
"""Levels, as native.h counts them: 0 is what every processor can do."""
_NEED_AVX2 = {
    "mmdata_jpeg_size",
    "mmdata_jpeg",
    "mmdata_yuv",
    "mmdata_resize",
    "mmdata_pillow_reduce",
    "mmdata_pillow_resize",
}
"""What the lowest level has not; elsewhere than on x86-64 it is not even in the library."""


def wanted() -> bool:
    return os.environ.get("MMDATA_NATIVE") != "0"


def compiled() -> Path | None:
    """Where the library lies, whatever its version."""
    folder = Path(__file__).parent
    paths = (folder / f"_kernels{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((path for path in paths if path.exists()), None)


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The library, or None where it was not compiled or is not wanted. Its functions run without Python's lock."""
    if not wanted():
        return None
    path = compiled()
    try:
        library = None if path is None else ctypes.CDLL(str(path))
    except OSError:  # of another platform, in a folder that two share
        return None
    if library is None or getattr(library, "mmdata_version", int)() != VERSION:
        return None
    library.mmdata_level.restype, library.mmdata_level.argtypes = ctypes.c_int, []
    names = _SIGNATURES if library.mmdata_level() >= AVX2 else _SIGNATURES.keys() - _NEED_AVX2
    for name in names:
        function = getattr(library, name)
        function.restype, function.argtypes = _SIGNATURES[name]
    return library


@functools.cache
def level() -> int:
    """Which of the kernels are used: the fastest for which the processor has the instructions, or AVX2 where no more is
    wanted; 0 without kernels."""
    library = kernels()
    highest = 0 if library is None else int(library.mmdata_level())
    return min(highest, AVX2) if os.environ.get("MMDATA_NATIVE") == "avx2" else highest
