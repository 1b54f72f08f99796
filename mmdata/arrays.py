"""Arrow columns of Python values, as `pa.array` makes them: that asks whether its list is a pandas series, and imports
pandas to find out, which takes longer than to index a thousand pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mmdata.native.calls import calls

TYPES = {
    pa.int8(): np.int8,
    pa.uint8(): np.uint8,
    pa.int32(): np.int32,
    pa.uint32(): np.uint32,
    pa.int64(): np.int64,
    pa.float64(): np.float64,
}
"""What numpy calls the numbers of our columns."""
_KINDS = {
    kind: number
    for number, kind in enumerate(
        (pa.string(), pa.binary(), pa.int32(), pa.int64(), pa.uint32(), pa.float64(), pa.bool_())
    )
}
"""What column.c calls our types."""


def column(values: Sequence[Any], type: pa.DataType) -> pa.Array:
    """An array of these values, None is null: `pa.array(values, type)`, whose bytes it has, of numbers, bool, strings
    and bytes, also of fixed width. Raises as numpy does where a value is none of `type`."""
    count = len(values)
    kind, compiled = _KINDS.get(type), calls()
    if compiled is not None and kind is not None and values.__class__ in (list, tuple):
        found = compiled.column(values, kind)
        if found is not None:
            missing, *buffers = found
            if missing == count and count:
                return pa.nulls(count, type)
            held = [None if each is None else pa.py_buffer(each) for each in buffers]
            return pa.Array.from_buffers(type, count, held if kind < 2 else held[::2], missing)
    missing = values.count(None)
    if missing == count and count:
        return pa.nulls(count, type)
    valid = _bitmap([value is not None for value in values]) if missing else None
    if pa.types.is_string(type) or pa.types.is_binary(type):
        if pa.types.is_string(type):
            values = [value or "" for value in values] if missing else values
            text = "".join(values)
            data = text.encode()
            if len(data) != len(text):  # else all is ASCII, and a character a byte
                values = [value.encode() for value in values]
        else:
            values = [value or b"" for value in values] if missing else values
            data = b"".join(values)
        if len(data) >= 1 << 31:
            raise ValueError(f"{len(data):,} bytes in one column")
        ends = np.zeros(count + 1, np.int32)
        np.cumsum(np.fromiter(map(len, values), np.int32, count), out=ends[1:])
        return pa.Array.from_buffers(type, count, [valid, pa.py_buffer(ends), pa.py_buffer(data)], missing)
    if pa.types.is_fixed_size_binary(type):
        nothing = bytes(type.byte_width)
        data = b"".join([nothing if value is None else value for value in values])
        if len(data) != count * type.byte_width:
            raise ValueError(f"{len(data)} bytes for {count} values of {type}")
        return pa.Array.from_buffers(type, count, [valid, pa.py_buffer(data)], missing)
    if missing:
        values = [0 if value is None else value for value in values]
    if pa.types.is_boolean(type):
        return pa.Array.from_buffers(type, count, [valid, _bitmap(values)], missing)
    return pa.Array.from_buffers(type, count, [valid, pa.py_buffer(np.array(values, TYPES[type]))], missing)


def _bitmap(flags: Sequence[Any]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array(flags, bool), bitorder="little"))
