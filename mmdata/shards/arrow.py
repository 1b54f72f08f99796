"""Arrow arrays as numpy sees them. pyarrow's own `to_numpy` and `pa.array` import pandas, which takes 0.3 s."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from mmdata.arrays import TYPES


def indices(rows: np.ndarray) -> pa.Array:
    """An int64 array over the same memory, for `take`."""
    rows = np.ascontiguousarray(rows, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)])


def numbers(column: pa.Array) -> np.ndarray:
    """The values of a fixed-width column as they lie in memory; what null rows hold means nothing."""
    data = column.buffers()[1]
    if data is None:  # no rows, or nothing but null
        return np.zeros(len(column), TYPES[column.type])
    return np.frombuffer(data, TYPES[column.type], len(column), column.offset * column.type.bit_width // 8)


def valid(column: pa.Array) -> np.ndarray:
    """Which rows are not null: bool [N]."""
    return _bits(column.buffers()[0], column.offset, len(column))


def codes(column: pa.Array) -> tuple[np.ndarray, list[str]]:
    """A column of strings as numbers and the string of each; null is -1. int64 [N]"""
    encoded = column.dictionary_encode()
    found = numbers(encoded.indices).astype(np.int64)
    found[~valid(encoded.indices)] = -1
    return found, encoded.dictionary.to_pylist()


def lengths(column: pa.Array) -> np.ndarray:
    """Bytes of each string, or items of each list: int32 [N]"""
    data = column.buffers()[1]
    if data is None:
        return np.zeros(len(column), np.int32)
    return np.diff(np.frombuffer(data, np.int32, len(column) + 1, column.offset * 4))


def _bits(bitmap: Any, offset: int, count: int) -> np.ndarray:
    if bitmap is None:
        return np.ones(count, bool)
    whole = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    return whole[offset : offset + count].astype(bool)
