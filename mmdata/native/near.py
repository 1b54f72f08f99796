"""The search for near hashes in the tables of a segment (`mmdata.hamming`) by the compiled kernel."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdata.native.library import kernels, level

Array = npt.NDArray[Any]
_FIELDS = ("shift", "low", "mask", "base", "behind", "prints", "starts", "order", "all", "more", "hashes", "ids")


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("base", "ids"), np.int64),
    **dict.fromkeys(("prints", "starts", "order", "all"), np.uint32),
    "more": np.uint8,
}


class _Segment(ctypes.Structure):
    """As near.c has it."""

    _fields_ = [
        ("shift", ctypes.c_void_p),
        ("low", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        ("base", ctypes.c_void_p),
        ("behind", ctypes.c_void_p),
        ("probes", ctypes.c_int64),
        ("prints", ctypes.c_void_p),
        ("slots", ctypes.c_int64),
        ("starts", ctypes.c_void_p),
        ("order", ctypes.c_void_p),
        ("all", ctypes.c_void_p),
        ("more", ctypes.c_void_p),
        ("hashes", ctypes.c_void_p),
        ("ids", ctypes.c_void_p),
    ]


class Searched:
    """The tables of a segment, as the kernel sees them; it holds on to their arrays.

    Of each probe u64 `shift`, `low`, `mask`, `behind` and i64 `base`; of each entry u32 `prints` [entries, slots] and
    `starts`, and a bit of `more` (`np.packbits(..., bitorder="little")`); u32 `order` and `all` of it; u64 `hashes` and
    i64 `ids`."""

    def __init__(self, **arrays: Array) -> None:
        for name in _FIELDS:
            kind = _KINDS.get(name, np.uint64)
            if arrays[name].dtype != kind or not arrays[name].flags.c_contiguous:
                raise ValueError(f"{name} is {arrays[name].dtype}, not a contiguous {np.dtype(kind)}")
        entries, slots = arrays["prints"].shape
        if len(arrays["starts"]) != entries or 8 * len(arrays["more"]) < entries:
            raise ValueError(f"{entries} entries of {len(arrays['starts'])} starts")
        self._held = arrays
        self._told = _Segment(
            probes=len(arrays["mask"]), slots=slots, **{name: arrays[name].ctypes.data for name in _FIELDS}
        )

    def nearest(self, queries: Array, some: Array, radius: int, distances: Array, ids: Array) -> None:
        """Put the distance and the id of the nearest hash within `radius` of each of the queries `some` (i64, places in
        `queries`, u64) into i64 `distances` and `ids`, of the smallest id where several are as near, where that is less
        than what is there."""
        if queries.dtype != np.uint64 or not some.dtype == distances.dtype == ids.dtype == np.int64:
            raise ValueError("queries are u64, all else is i64")
        library = kernels()
        assert library is not None
        failed = library.mmdata_near(
            ctypes.byref(self._told),
            queries.ctypes.data,
            some.ctypes.data,
            len(some),
            radius,
            distances.ctypes.data,
            ids.ctypes.data,
            level(),
        )
        if failed:
            raise MemoryError("the places of a search")


def searched(arrays: dict[str, Array]) -> Searched | None:
    """What searches these tables, or None where the kernel was not compiled."""
    return None if kernels() is None else Searched(**arrays)
