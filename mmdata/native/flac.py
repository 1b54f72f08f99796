"""Samples of a FLAC file by the compiled kernel, as long as it finds nothing unusual in it."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdata import memory
from mmdata.native.library import kernels, level


class _Stream(ctypes.Structure):
    """As flac.h has it."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("rate", "channels", "bits", "least", "most", "samples", "byte", "sample", "by_samples")
    ]


@functools.cache
def _sums() -> npt.NDArray[np.uint16]:
    """Remainders of a byte and of what follows it, made once."""
    sums = np.empty((8, 256), np.uint16)
    library = kernels()
    assert library is not None
    library.mmdata_flac_sums(sums.ctypes.data)
    return sums


class Frames:
    """The frames of a file, read once and in order; counts are of samples of one channel."""

    def __init__(
        self, data: bytes, *, rate: int, channels: int, bits: int, blocks: tuple[int, int], samples: int, byte: int
    ) -> None:
        """What STREAMINFO says, with the least and the most samples of a frame, and where the first frame begins."""
        self._data = np.frombuffer(data, np.uint8)
        self._stream = _Stream(rate, channels, bits, *blocks, samples, byte, 0, -1)
        self._next = 0

    def read(self, first: int, count: int, *, mono: bool) -> npt.NDArray[np.float32] | None:
        """Samples `first` to `first + count`, none of which was read before: float32 [channels, count], or their mean
        [count]. None where the kernel finds what it does not know; after that there is nothing to be read."""
        if not self._next <= first <= first + count <= self._stream.samples:
            raise ValueError(f"{count} samples from {first}, which is not behind {self._next}")
        library = kernels()
        assert library is not None
        out = memory.empty((count,) if mono else (self._stream.channels, count), np.float32)
        failed = library.mmdata_flac(
            self._data.ctypes.data,
            len(self._data),
            ctypes.byref(self._stream),
            first,
            count,
            out.ctypes.data,
            mono,
            _sums().ctypes.data,
            level(),
        )
        self._next = self._stream.samples + 1 if failed else first + count
        return None if failed else out


def frames(data: bytes, **facts: Any) -> Frames | None:
    """What reads this file, or None where the kernel was not compiled."""
    return None if kernels() is None else Frames(data, **facts)
