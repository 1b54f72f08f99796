"""The compiled kernels, if there are any: C that is compiled when the package is installed, where there is a compiler.

Without one, or on a processor that they do not know, torch and numpy do their work: the same bits, more slowly.
`MMDATA_NATIVE=0` in the environment does without them.
"""

from __future__ import annotations

import ctypes
import functools
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES = {
    "mmdata_resize": (ctypes.c_int, [_POINTER, *[_INT] * 5, _POINTER, _INT, _INT, ctypes.c_int]),
    "mmdata_normal_size": (_INT, []),
    "mmdata_normal": (None, [_POINTER] * 3),
    "mmdata_planes": (None, [_POINTER, *[_INT] * 5, _POINTER, _POINTER, ctypes.c_int]),
    "mmdata_patches": (
        None,
        [_POINTER, *[_INT] * 10, ctypes.c_int, _POINTER, _POINTER, _INT, ctypes.c_int],
    ),
}


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The library, or None where it was not compiled or is not wanted. Its functions run without Python's lock."""
    if os.environ.get("MMDATA_NATIVE") == "0":
        return None
    folder = Path(__file__).parent
    found = next((path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_kernels{suffix}").exists()), None)
    if found is None:
        return None
    library = ctypes.CDLL(str(found))
    library.mmdata_avx512.restype, library.mmdata_avx512.argtypes = ctypes.c_int, []
    names = _SIGNATURES if library.mmdata_avx512() else [name for name in _SIGNATURES if name != "mmdata_resize"]
    for name in names:
        function = getattr(library, name)
        function.restype, function.argtypes = _SIGNATURES[name]
    return library


@functools.cache
def avx512() -> bool:
    """Whether the processor has the instructions of the fastest kernels, and these were compiled."""
    library = kernels()
    return library is not None and bool(library.mmdata_avx512())
