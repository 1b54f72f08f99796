"""An index as it grows, column by column: rows of another's tar are alike, and what they share is told once."""

from __future__ import annotations

from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

import numpy as np
import pyarrow as pa

from mmdata import arrays
from mmdata.checksum import crc32c
from mmdata.shards import index as indexes
from mmdata.shards.index import PART, IndexRow, Part

_OWN = ("offset", "size", "crc32c", "height", "width")
"""What differs from part to part of one shape."""
_SIZED = 0
"""The height and width of a shape whose parts have their own."""


class IndexColumns:
    """Rows of one origin, appended one by one; `to_bytes` gives the file that `index.to_bytes` makes of the same rows.

    A shape is a part without its place, checksum, height and width; parts of the same shape share its number. Without
    `sums` there is no checksum of any part or row, and the columns for them are null.

    >>> columns = IndexColumns("a.tar", sums=False)
    >>> shape = columns.shape(Part("txt", "text", 0, 0, 0, "caption", True))
    >>> columns.append("a", 0, 0, [(shape, 512, 5, 0)], ())
    >>> len(columns)
    1
    """

    def __init__(self, origin: str, *, sums: bool = True) -> None:
        self.origin = origin
        self.sums = sums
        self.keys: list[str] = []
        self._rows: list[int] = []
        self._origin_rows: list[int] = []
        self._counts: list[int] = []
        self._parts: list[tuple[int, int, int, int]] = []
        self._pixels: list[tuple[int, int]] = []
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []  # of parts and pixels, before the lists above
        self._crcs: list[int] = []
        self._shapes: list[Part] = []
        self._numbers: dict[Part, int] = {}
        self._templates: list[str] = []
        self._origin_text = quoted(origin)

    def __len__(self) -> int:
        return len(self.keys)

    def shape(self, part: Part) -> int:
        """The number of a part's shape, which has pixels of its own where both height and width are given."""
        sized = part.height is not None and part.width is not None
        part = part._replace(offset=0, size=0, crc32c=0)
        if sized:
            part = part._replace(height=_SIZED, width=_SIZED)
        number = self._numbers.get(part)
        if number is None:
            number = self._numbers[part] = len(self._shapes)
            self._shapes.append(part)
            self._templates.append(_template(part, sized))
        return number

    def sized(self, number: int) -> bool:
        """Whether parts of a shape have pixels of their own."""
        return self._shapes[number].height == _SIZED and self._shapes[number].width == _SIZED

    def append(
        self,
        key: str,
        row: int,
        origin_row: int,
        parts: Sequence[tuple[int, int, int, int]],
        pixels: Sequence[tuple[int, int]],
    ) -> None:
        """One sample: (shape, offset, size, crc32c) of each part, and (height, width) of each that has pixels."""
        self.keys.append(key)
        self._rows.append(row)
        self._origin_rows.append(origin_row)
        self._counts.append(len(parts))
        self._parts += parts
        self._pixels += pixels
        if self.sums:
            self._crcs.append(self._crc32c(key, row, origin_row, parts, pixels))

    def extend(self, keys: Sequence[str], row: int, origin_row: int, parts: np.ndarray, pixels: np.ndarray) -> None:
        """Samples that follow each other, without sums, equally many parts each: int64 [N, 4] and int32 [M, 2] are as
        `append` takes them."""
        assert not self.sums, "rows have sums one by one"
        self._flush()
        self._blocks.append((parts, pixels))
        self.keys += keys
        self._rows += range(row, row + len(keys))
        self._origin_rows += range(origin_row, origin_row + len(keys))
        self._counts += [len(parts) // len(keys)] * len(keys)

    def _flush(self) -> None:
        if self._parts or self._pixels:
            parts = np.array(self._parts, np.int64).reshape(len(self._parts), 4)
            pixels = np.array(self._pixels, np.int32).reshape(len(self._pixels), 2)
            self._blocks.append((parts, pixels))
            self._parts, self._pixels = [], []

    def add(self, row: IndexRow) -> None:
        """Any sample of the origin; as `append`."""
        assert (row.origin, row.signatures) == (self.origin, {}), row
        parts, pixels = [], []
        for part in row.parts:
            if part.marks is not None:
                part = part._replace(marks=tuple((name, tuple(frames)) for name, frames in part.marks))
            number = self.shape(part)
            parts.append((number, part.offset, part.size, part.crc32c or 0))
            if self.sized(number):
                pixels.append((part.height or 0, part.width or 0))
        self.append(row.key, row.row, row.origin_row, parts, pixels)

    def _crc32c(
        self,
        key: str,
        row: int,
        origin_row: int,
        parts: Sequence[tuple[int, int, int, int]],
        pixels: Sequence[tuple[int, int]],
    ) -> int:
        """That of `IndexRow.crc32c`."""
        each = iter(pixels)
        told = [
            self._templates[shape] % ((offset, size, crc, *next(each)) if self.sized(shape) else (offset, size, crc))
            for shape, offset, size, crc in parts
        ]
        text = f"[{quoted(key)},{row},{self._origin_text},{origin_row},[{','.join(told)}],[]]"
        return int(crc32c(text.encode()))

    def to_bytes(self) -> bytearray:
        """The Arrow IPC file."""
        schema = indexes.SCHEMA if self.sums else indexes.UNSUMMED
        self._flush()
        empty = (np.zeros((0, 4), np.int64), np.zeros((0, 2), np.int32))
        numbers, pixels = (np.concatenate(each) for each in zip(empty, *self._blocks, strict=True))
        count, codes = len(numbers), numbers[:, 0]
        period = self._counts[0] if len(set(self._counts)) == 1 else 0
        kinds = {field.name: field for field in schema.field("parts").type.value_type}
        columns = []
        for field in PART:
            told = [getattr(shape, field.name) for shape in self._shapes]
            if field.name == "offset":
                column = _numbers(numbers[:, 1], np.int64, field.type)
            elif field.name == "size":
                column = _numbers(numbers[:, 2], np.int64, field.type)
            elif field.name == "crc32c":
                column = _numbers(numbers[:, 3], np.uint32, field.type) if self.sums else absent(count)
            elif field.name in ("height", "width"):
                column = self._own_pixels(told, codes, pixels[:, int(field.name == "width")], field.type)
            else:
                column = _spread(told, codes, kinds[field.name], period)
            columns.append(column)
        struct = pa.StructArray.from_arrays(columns, fields=list(kinds.values()))
        ends = np.zeros(len(self._counts) + 1, np.int32)
        np.cumsum(self._counts, out=ends[1:])
        rows = len(self.keys)
        lists = pa.ListArray.from_arrays(_numbers(ends, np.int32, pa.int32()), struct, type=schema.field("parts").type)
        batch = [
            arrays.column(self.keys, pa.string()),
            _numbers(np.array(self._rows, np.int64), np.int64, pa.int64()),
            _spread([self.origin], np.zeros(rows, np.int64), schema.field("origin"), 1),
            _numbers(np.array(self._origin_rows, np.int64), np.int64, pa.int64()),
            lists,
            indexes.no_signatures(rows),
            _numbers(np.array(self._crcs, np.int64), np.uint32, pa.uint32()) if self.sums else absent(rows),
        ]
        return indexes.file_of(batch, schema)

    def _own_pixels(self, told: list[Any], codes: np.ndarray, pixels: np.ndarray, kind: pa.DataType) -> pa.Array:
        """Heights or widths: of a shape, or of each of its parts."""
        own = np.array([self.sized(number) for number in range(len(self._shapes))], bool)[codes]
        if not own.any():
            return _spread(told, codes, pa.field("", kind))
        values = np.array([value or 0 for value in told], np.int32)[codes]
        values[own] = pixels
        valid = np.array([value is not None for value in told], bool)[codes]
        return _nullable(values, valid, kind)


def _template(part: Part, sized: bool) -> str:
    """The JSON array of a part's values as `IndexRow.crc32c` sums it, with `%d` where parts of its shape differ."""
    own = _OWN if sized else _OWN[:3]
    values = [
        "%d" if name in own else indexes.json_of(value).replace("%", "%%") for name, value in part._asdict().items()
    ]
    return f"[{','.join(values)}]"


def _numbers(values: np.ndarray, dtype: Any, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values, dtype))], 0)


def _nullable(values: np.ndarray, valid: np.ndarray, kind: pa.DataType) -> pa.Array:
    missing = int(len(valid) - valid.sum())
    if missing == len(valid) and missing:
        return pa.nulls(len(valid), kind)
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little")) if missing else None
    return pa.Array.from_buffers(kind, len(valid), [bitmap, pa.py_buffer(np.ascontiguousarray(values))], missing)


def absent(count: int) -> pa.Array:
    """Checksums that nobody took: nulls over zeros."""
    if not count:
        return _numbers(np.zeros(0), np.uint32, pa.uint32())
    bitmap = pa.py_buffer(bytes(-(-count // 8)))
    return pa.Array.from_buffers(pa.uint32(), count, [bitmap, pa.py_buffer(np.zeros(count, np.uint32))], count)


def _spread(told: list[Any], codes: np.ndarray, field: pa.Field, period: int = 0) -> pa.Array:
    """The values of shapes, each as often as its code comes: `arrays.column` of them all, whose bytes it has. There are
    `period` codes to a sample, 0 where it is not the same number to each."""
    kind = field.type
    if all(value is None for value in told) and len(codes):
        return indexes.no_maps(len(codes), kind) if pa.types.is_map(kind) else pa.nulls(len(codes), kind)
    if not len(codes) or pa.types.is_map(kind):
        return indexes.column([told[code] for code in codes.tolist()], field)
    valid = np.array([value is not None for value in told], bool)[codes]
    if not (pa.types.is_string(kind) or pa.types.is_binary(kind)):
        if pa.types.is_boolean(kind):
            return _bits(np.array([bool(value) for value in told], bool)[codes], valid)
        return _nullable(np.array([value or 0 for value in told], arrays.TYPES[kind])[codes], valid, kind)
    texts = [b"" if value is None else value.encode() if isinstance(value, str) else value for value in told]
    ends = np.zeros(len(codes) + 1, np.int64)
    np.cumsum(np.array([len(text) for text in texts], np.int64)[codes], out=ends[1:])
    if ends[-1] >= 1 << 31:
        raise ValueError(f"{ends[-1]:,} bytes in one column")
    if not valid.any():
        return pa.nulls(len(codes), kind)
    missing = int(len(valid) - valid.sum())
    bitmap = pa.py_buffer(np.packbits(valid, bitorder="little")) if missing else None
    buffers = [bitmap, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(_joined(texts, codes, period))]
    return pa.Array.from_buffers(kind, len(codes), buffers, missing)


def _joined(texts: list[bytes], codes: np.ndarray, period: int) -> bytes:
    """The texts of all codes, one after the other. Where the texts come again after each `period` codes, as they do
    where all samples are alike, they are told once and multiplied."""
    if period:
        alike = np.array([texts.index(text) for text in texts])[codes].reshape(-1, period)
        if (alike == alike[0]).all():
            return b"".join([texts[code] for code in codes[:period].tolist()]) * len(alike)
    return b"".join([texts[code] for code in codes.tolist()])


def _bits(flags: np.ndarray, valid: np.ndarray) -> pa.Array:
    """Booleans, some of them null."""
    missing = int(len(valid) - valid.sum())
    if missing == len(valid):
        return pa.nulls(len(valid), pa.bool_())
    bitmap, values = (pa.py_buffer(np.packbits(each, bitorder="little")) for each in (valid, flags))
    return pa.Array.from_buffers(pa.bool_(), len(valid), [bitmap if missing else None, values], missing)
