"""shards.arrow: the table of a dataset's shards, one row per unit of work, memory-mapped and never read whole.

First come the units that have a shard, in their order, then one row that only ends the columns of sums (unit -1), then
the units that kept nothing. So `first` of the former, and the end, are the S + 1 prefix sums of S shards as they lie.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, overload

import numpy as np
import pyarrow as pa

from mmdata.arrays import column
from mmdata.checksum import crc32c
from mmdata.errors import DataError
from mmdata.shards import layout
from mmdata.shards.index import json_bytes

NAME = "shards.arrow"
END = -1

SCHEMA = pa.schema(
    [
        pa.field("unit", pa.int64(), nullable=False),
        pa.field("first", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("input_first", pa.int64(), nullable=False),
        pa.field("input_rows", pa.int64(), nullable=False),
        pa.field("shard", pa.string()),
        pa.field("shard_bytes", pa.int64(), nullable=False),
        pa.field("shard_sha256", pa.binary(32)),
        pa.field("index", pa.string()),
        pa.field("index_sha256", pa.binary(32)),
        pa.field("index_crc32c", pa.uint32()),
        pa.field("ledger", pa.string(), nullable=False),
        pa.field("ledger_sha256", pa.binary(32), nullable=False),
        pa.field("crc32c", pa.uint32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """One unit of work. Units that kept nothing have no shard: `rows` 0 and no files but the ledger."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}  # of who checks one that was written as JSON

    unit: int
    """Number of the work unit; shard files carry it as six digits."""
    first: int
    """Samples in all shards before this one."""
    rows: int
    """Samples in this shard."""
    input_first: int
    """First input row of the unit."""
    input_rows: int
    """Input rows of the unit."""
    shard: str | None = None
    """The tar: a path relative to the dataset, or where a dataset was made of files elsewhere, their absolute path or
    URL."""
    shard_bytes: int = 0
    shard_sha256: str | None = None
    index: str | None = None
    """Path of the Arrow index, relative to the dataset."""
    index_sha256: str | None = None
    index_crc32c: int | None = None
    ledger: str
    """Path of the unit's ledger, relative to the dataset."""
    ledger_sha256: str

    def crc32c(self) -> int:
        """Of the row: CRC-32C of the JSON array of the values above, in this order, without spaces."""
        values = [getattr(self, name) for name in _COLUMNS]
        return int(crc32c(json_bytes(values)))


_COLUMNS = SCHEMA.names[:-1]
_KINDS: list[tuple[str, str, bool]] = [
    (
        field.name,
        {pa.int64(): "q", pa.uint32(): "I", pa.string(): "text", pa.binary(32): "digest"}[field.type],
        field.nullable,
    )
    for field in SCHEMA
]
"""Name, kind and whether it may be null of each column; numbers by their letter of `memoryview.cast`."""
_DIGEST = 32
assert [field.name for field in fields(ShardEntry)] == _COLUMNS


def to_bytes(entries: Iterable[ShardEntry], metadata: dict[str, str]) -> bytes:
    """The Arrow IPC file of these units, given in their order; the same units give the same bytes. `metadata` says
    which manifest it belongs to."""
    every = list(entries)
    full = [entry for entry in every if entry.rows]
    first, input_first = sum(entry.rows for entry in full), sum(entry.input_rows for entry in every)
    rows = [
        *full,
        ShardEntry(
            unit=END,
            first=first,
            rows=0,
            input_first=input_first,
            input_rows=0,
            ledger="",
            ledger_sha256="00" * 32,
        ),
        *(entry for entry in every if not entry.rows),
    ]
    columns = []
    for field in SCHEMA:
        if field.name == "crc32c":
            values: list[Any] = [row.crc32c() for row in rows]
        else:
            values = [getattr(row, field.name) for row in rows]
            if field.type == pa.binary(32):
                values = [None if value is None else bytes.fromhex(value) for value in values]
        columns.append(column(values, field.type))
    schema = SCHEMA.with_metadata(metadata)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue()


class ShardTable(Sequence[ShardEntry]):
    """The units of a dataset in their order, and its shards by number (those of them that hold samples).

    Nothing is read before it is asked for: a table costs the same at a thousand and at a million shards. Each row is
    compared with its crc32c when it is taken out.
    """

    def __init__(self, data: Any, shards: int, *, name: str = NAME, metadata: dict[str, str] | None = None) -> None:
        """`data` is the file as a buffer. Raises DataError for what is no such table of `shards` shards, or has other
        metadata."""
        self.name = name
        self._data = memoryview(data)
        schema = SCHEMA if metadata is None else SCHEMA.with_metadata(metadata)
        found = layout.buffers(self._data, layout.head(schema))
        rows, buffers = (found.rows, found) if found is not None else self._opened(metadata)
        if not shards < rows:
            raise DataError("table_damaged", f"{name}: {rows - 1} units, {shards} shards expected")
        self.shards = shards
        try:
            self._columns = _columns(buffers, rows)
        except (ValueError, IndexError) as error:
            raise DataError("table_damaged", f"{name}: {error}") from error
        self._firsts = np.frombuffer(self._columns["first"].values, np.int64)
        self._units = np.frombuffer(self._columns["unit"].values, np.int64)
        self._order: np.ndarray | None = None

    def _opened(self, metadata: dict[str, str] | None) -> tuple[int, list[Any]]:
        """Rows and buffers as Arrow reads them."""
        try:
            reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._data)))
            if reader.num_record_batches != 1:
                raise ValueError(f"{reader.num_record_batches} record batches")
            table = reader.get_batch(0)
            table.validate()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError("table_damaged", f"{self.name}: {error}") from error
        if table.schema != SCHEMA:
            raise DataError("table_damaged", f"{self.name}: not a table of shards of this version")
        found = {
            key.decode(errors="replace"): value.decode(errors="replace")
            for key, value in (table.schema.metadata or {}).items()
        }
        if metadata is not None and found != metadata:
            raise DataError("table_other", f"{self.name}: belongs to another manifest ({found}, not {metadata})")
        return table.num_rows, [buffer or b"" for column in table.columns for buffer in column.buffers()]

    @classmethod
    def of(cls, entries: Iterable[ShardEntry]) -> ShardTable:
        """A table in memory."""
        every = list(entries)
        return cls(pa.py_buffer(to_bytes(every, {})), sum(entry.rows > 0 for entry in every))

    @property
    def firsts(self) -> np.ndarray:
        """The first position of each shard, and the number of samples: int64 [S + 1], as they lie, unchecked."""
        return self._firsts[: self.shards + 1]

    @property
    def unsummed(self) -> int:
        """Shards of which no sums were taken when they were indexed (`mmdata.index --digest none`)."""
        valid = self._columns["shard_sha256"].valid
        if not valid:
            return 0
        bits = int.from_bytes(valid[: -(-self.shards // 8)], "little") & ((1 << self.shards) - 1)
        return self.shards - bits.bit_count()

    def shard(self, number: int) -> ShardEntry:
        """The number-th shard, 0 <= number < shards. Raises DataError where its row has changed."""
        return self._row(number)

    def find(self, position: int) -> int:
        """The number of the shard that holds a position, 0 <= position < samples. Raises DataError where the table
        cannot be right; `shard` checks the rest."""
        number = int(np.searchsorted(self.firsts, position, side="right")) - 1
        if not 0 <= number < self.shards:
            raise DataError("table_damaged", f"{self.name}: no shard holds sample {position}")
        return number

    def __len__(self) -> int:
        return len(self._units) - 1

    @overload
    def __getitem__(self, at: int) -> ShardEntry: ...
    @overload
    def __getitem__(self, at: slice) -> list[ShardEntry]: ...
    def __getitem__(self, at: int | slice) -> ShardEntry | list[ShardEntry]:
        if self._order is None:
            rows = np.delete(np.arange(len(self) + 1), self.shards)
            self._order = rows[np.argsort(self._units[rows], kind="stable")]
        if isinstance(at, slice):
            return [self._row(int(row)) for row in self._order[at]]
        return self._row(int(self._order[at]))

    def __iter__(self) -> Iterator[ShardEntry]:
        return (self[at] for at in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def _row(self, at: int) -> ShardEntry:
        try:
            values = {name: column(at) for name, column in self._columns.items()}
        except (IndexError, ValueError) as error:
            raise DataError("table_row", f"{self.name}: row {at}: {error}") from error
        stored = values.pop("crc32c")
        entry = ShardEntry(**values)
        if int(crc32c(json_bytes(list(values.values())))) != stored:  # `entry.crc32c`, whose values are at hand
            raise DataError("table_row", f"{self.name}: row {at} (unit {entry.unit}) has changed since it was written")
        return entry

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardTable, (bytes(self._data), self.shards)


class _Column:
    """A column of a mapped file that nobody has validated: no offset is followed before it is looked at."""

    __slots__ = ("_data", "_kind", "valid", "values")

    def __init__(self, kind: str, valid: Any, values: Any, data: Any) -> None:
        self._kind = kind
        self.valid = valid
        """A bit for each row; empty where none is null."""
        self.values = values
        """Numbers, or of texts where each begins and the last one ends, or digests one after the other."""
        self._data = data

    def __call__(self, at: int) -> Any:
        """The value of a row, a digest in hex. Raises IndexError and ValueError where it cannot be one."""
        if self.valid and not self.valid[at >> 3] >> (at & 7) & 1:
            return None
        if self._kind == "text":
            start, stop = self.values[at], self.values[at + 1]
            if not 0 <= start <= stop <= len(self._data):
                raise ValueError(f"bytes {start} to {stop} of {len(self._data)}")
            return str(self._data[start:stop], "utf-8")
        if self._kind == "digest":
            return self.values[at * _DIGEST : (at + 1) * _DIGEST].hex()
        return self.values[at]


def _columns(buffers: Any, rows: int) -> dict[str, _Column]:
    """The columns of a table. Raises ValueError where their numbers are fewer than its rows."""
    found, number = {}, 0
    for name, kind, nullable in _KINDS:
        valid, values = buffers[number] if nullable else b"", memoryview(buffers[number + 1])
        data = memoryview(buffers[number + 2]) if kind == "text" else None
        number += 2 if data is None else 3
        if kind == "text":
            values = values[: 4 * (rows + 1)].cast("i")
        elif kind != "digest":
            values = values[: struct.calcsize(kind) * rows].cast(kind)  # type: ignore[call-overload]
            if len(values) != rows:
                raise ValueError(f"{name}: {len(values)} of {rows} rows")
        found[name] = _Column(kind, valid, values, data)
    return found


def open_table(path: Path, shards: int, metadata: dict[str, str]) -> ShardTable:
    """Map the table of a dataset; see `ShardTable`."""
    try:
        data = layout.contents(path).data
    except FileNotFoundError as error:
        raise DataError("table_missing", f"{path}: no such file; a copy of a dataset needs it") from error
    except OSError as error:
        raise DataError("table_damaged", f"{path}: {error}") from error
    return ShardTable(data, shards, name=str(path), metadata=metadata)
