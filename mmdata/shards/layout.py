"""Where the columns of an Arrow file lie, told in microseconds for files that look as we write them.

Arrow itself reads the schema and makes an object for each column and each of its buffers: for the index of a small
shard that takes longer than to read its bytes, and longer than to read its samples.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

MAPPED = 1 << 17
"""Bytes of a file from which on it is mapped into memory, not read."""
_FRAME = b"ARROW1\0\0"
"""As every file begins."""
_CONTINUED = 0xFFFFFFFF
_MESSAGE = struct.Struct("<II")
"""Before each message: a mark, and the bytes of the message without its body; 0 at the end of all."""
_OFFSET, _BACK, _LONG = struct.Struct("<I"), struct.Struct("<i"), struct.Struct("<q")


class Buffers:
    """The buffers of a file's only batch, one after the other as its columns and their children come; `rows` of it.
    Those that the file leaves out (no row is null) are empty."""

    __slots__ = ("_data", "_places", "rows")

    def __init__(self, rows: int, data: memoryview, places: memoryview) -> None:
        """`places` are the offset and size of each in `data`: int64 [2 * buffers]."""
        self.rows = rows
        self._data = data
        self._places = places

    def __getitem__(self, number: int) -> memoryview:
        """One of them. Raises ValueError where it reaches beyond the file, IndexError where there is none."""
        at, size = self._places[2 * number], self._places[2 * number + 1]
        found = self._data[at : at + size]
        if at < 0 or len(found) != size:
            raise ValueError(f"bytes {at} to {at + size} of {len(self._data)}")
        return found


class File(NamedTuple):
    """What a file holds, and what tells whether it has been written since."""

    data: memoryview
    state: tuple[int, ...]


def contents(path: str | Path) -> File:
    """A file, mapped where it is large: a small one is read in less time than it takes to map it."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        size, state = found.st_size, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if size <= MAPPED and len(data := os.pread(file, size, 0)) == size:
            return File(memoryview(data), state)
    finally:
        os.close(file)
    # Arrow's own have signed bytes.
    return File(memoryview(pa.memory_map(str(path)).read_buffer()).cast("B"), state)


def head(schema: pa.Schema) -> bytes:
    """The bytes with which a file of this schema begins."""
    return _FRAME + bytes(schema.serialize())


def buffers(data: memoryview, head: bytes) -> Buffers | None:
    """The buffers of a file of bytes that begins with this `head` and holds one batch, not compressed; None for every
    other, which is for Arrow to read."""
    try:
        at = len(head)
        # Arrow's own buffers have signed bytes. A memoryview would be compared byte by byte.
        if data.format != "B" or bytes(data[:at]) != head:
            return None
        mark, size = _MESSAGE.unpack_from(data, at)
        at += _MESSAGE.size
        message = _Table(data, at)
        batch = _Table(data, message.place(2))
        (rows,), (body,) = _LONG.unpack_from(data, batch.place(0)), _LONG.unpack_from(data, message.place(3))
        vector = batch.place(2)
        vector += _OFFSET.unpack_from(data, vector)[0]
        places = data[vector + 4 : vector + 4 + 16 * _OFFSET.unpack_from(data, vector)[0]].cast("q")
        after = _MESSAGE.unpack_from(data, at + size + body)
    except (struct.error, ValueError, TypeError, IndexError):
        return None
    if mark != _CONTINUED or after != (_CONTINUED, 0) or rows < 0 or body < 0 or batch.has(3):
        return None
    return Buffers(rows, data[at + size : at + size + body], places)


class _Table:
    """A table of a flatbuffer (https://flatbuffers.dev/internals): fields by number, each at an offset or left out."""

    __slots__ = ("_fields", "_start")

    def __init__(self, data: memoryview, root: int) -> None:
        """`root` is where the offset to the table lies."""
        self._start = start = root + _OFFSET.unpack_from(data, root)[0]
        where = start - _BACK.unpack_from(data, start)[0]
        size = data[where] | data[where + 1] << 8
        self._fields = data[where + 4 : where + size].cast("H")

    def has(self, number: int) -> bool:
        """Whether a field is not left out."""
        return number < len(self._fields) and self._fields[number] != 0

    def place(self, number: int) -> int:
        """Where a field lies in the data. Raises ValueError for one that is left out."""
        if not self.has(number):
            raise ValueError(f"no field {number}")
        return int(self._start + self._fields[number])
