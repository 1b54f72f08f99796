"""Single values out of the buffers of an Arrow batch, without Arrow's object for each column and value.

Arrow takes 45 us to make a row of an index into Python values, of which most is spent on objects in between; numbers
and texts that are taken out of their buffers one by one take a fifth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import types

Cell = Callable[[int], Any]
"""The value of a row as `to_pylist` has it; of a struct, the tuple of its values."""
_CODES: dict[pa.DataType, Any] = {
    pa.int32(): "i",
    pa.uint32(): "I",
    pa.int64(): "q",
    pa.float64(): "d",
}


def cell(kind: pa.DataType, buffers: Iterator[Any]) -> Cell:
    """What takes values of a type out of its buffers, which are `buffers`' next ones, in Arrow's order
    (https://arrow.apache.org/docs/format/Columnar.html#buffer-listing-for-each-layout).

    Whatever offsets say, nothing outside a buffer is read: values that cannot be raise IndexError or ValueError where
    they are taken. Raises TypeError for a type that is not one of an index.
    """
    valid = memoryview(next(buffers))
    take = _take(kind, buffers)
    if not len(valid):
        return take
    return lambda at: take(at) if valid[at >> 3] >> (at & 7) & 1 else None


def _take(kind: pa.DataType, buffers: Iterator[Any]) -> Cell:
    if types.is_struct(kind):
        members = [cell(member.type, buffers) for member in kind]
        return lambda at: tuple([member(at) for member in members])
    if kind in _CODES:
        take: Cell = memoryview(next(buffers)).cast(_CODES[kind]).__getitem__
        return take
    if types.is_boolean(kind):
        bits = memoryview(next(buffers))
        return lambda at: bool(bits[at >> 3] >> (at & 7) & 1)
    if types.is_string(kind):
        ends, data = memoryview(next(buffers)).cast("i"), memoryview(next(buffers))
        return lambda at: str(data[ends[at] : ends[at + 1]], "utf-8")
    if types.is_binary(kind):
        ends, data = memoryview(next(buffers)).cast("i"), memoryview(next(buffers))
        return lambda at: bytes(data[ends[at] : ends[at + 1]])
    if types.is_map(kind):
        ends = memoryview(next(buffers)).cast("i")
        next(buffers)  # of the pairs, none of which is null
        key, value = cell(kind.key_type, buffers), cell(kind.item_type, buffers)
        return lambda at: [(key(i), value(i)) for i in range(ends[at], ends[at + 1])]
    if types.is_list(kind):
        ends = memoryview(next(buffers)).cast("i")
        item = cell(kind.value_type, buffers)
        return lambda at: [item(i) for i in range(ends[at], ends[at + 1])]
    raise TypeError(f"no cells of {kind}")
