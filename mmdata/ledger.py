"""The ledger: every input record ends in exactly one state, and the states sum to the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from mmdata.arrays import column
from mmdata.errors import DataError
from mmdata.types import State

STATES: tuple[State, ...] = get_args(State)

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("origin_row", pa.int64(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("step", pa.int32()),
        pa.field("of", pa.string()),
        pa.field("shard", pa.int32()),
        pa.field("shard_row", pa.int32()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("status", pa.int32()),
        pa.field("seconds", pa.float64()),
        pa.field("size", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("thumbnail", pa.binary()),
    ]
)


# A dictionary of values that come once each takes most of the time of writing, and more bytes than the values.
_COUNTED = ("row", "origin_row", "shard_row", "size")
_ENCODED = dict.fromkeys(_COUNTED, "DELTA_BINARY_PACKED") | dict.fromkeys(("key", "uri"), "DELTA_BYTE_ARRAY")
_REPEATED = [name for name in SCHEMA.names if name not in (*_ENCODED, "seconds", "sha256", "thumbnail")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """The fate of one input record.

    `state` and `reason` say how it ended (`ok` has the empty reason), `step` which step of the spec decided,
    `of` the key that a duplicate repeats, `shard`/`shard_row` where a kept record lies. `attempts`, `status`
    (HTTP), `seconds` (of fetching, waits included) and `size` (bytes received) tell of the fetch; `thumbnail` is a
    small JPEG, kept for a few records of each reason.
    """

    row: int
    key: str
    origin: str
    origin_row: int
    uri: str | None = None
    state: State
    reason: str = ""
    detail: str = ""
    step: int | None = None
    of: str | None = None
    shard: int | None = None
    shard_row: int | None = None
    attempts: int = 0
    status: int | None = None
    seconds: float | None = None
    size: int | None = None
    sha256: str | None = None
    height: int | None = None
    width: int | None = None
    thumbnail: bytes | None = None


class Fates:
    """The ledger of one unit as it grows: rows, and of samples that are kept and of which there is nothing more to say
    but the size of a picture, only their key and that. `ends` counts states with their reasons."""

    def __init__(self, *, unit: int, origin: str, first: int) -> None:
        """`first` is the input row of the first of them; each is the next row of its input and of its origin."""
        self._unit, self._origin, self._first = unit, origin, first
        self._keys: list[str] = []
        self._heights: list[int | None] = []
        self._widths: list[int | None] = []
        self._shard_rows: list[int] = []
        self._rows: dict[int, LedgerRow] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def kept(self, key: str, shard_row: int, height: int | None = None, width: int | None = None) -> None:
        """A sample that is row `shard_row` of the unit's shard; height and width of its one picture."""
        self._keys.append(key)
        self._heights.append(height)
        self._widths.append(width)
        self._shard_rows.append(shard_row)

    def extend(
        self, keys: Sequence[str], shard_row: int, heights: Sequence[int | None], widths: Sequence[int | None]
    ) -> None:
        """As `kept`, of samples that follow each other in the shard from `shard_row` on."""
        self._keys += keys
        self._heights += heights
        self._widths += widths
        self._shard_rows += range(shard_row, shard_row + len(keys))

    def add(self, row: LedgerRow) -> None:
        """Any other, as it is."""
        self._rows[len(self)] = row
        self.kept("", 0)

    @property
    def ends(self) -> Counter[tuple[str, str]]:
        """So many ended in this state for this reason."""
        found: Counter[tuple[str, str]] = Counter((row.state, row.reason) for row in self._rows.values())
        if len(self) > len(self._rows):
            found["ok", ""] += len(self) - len(self._rows)
        return found

    def to_table(self) -> pa.Table:
        """As `to_table` makes it of the rows."""
        if self._rows:
            return to_table(self._rows.get(at) or self._row(at) for at in range(len(self)))
        count = len(self)
        own: dict[str, Sequence[Any]] = {
            "row": range(self._first, self._first + count),
            "key": self._keys,
            "origin_row": range(count),
            "shard_row": self._shard_rows,
            "height": self._heights,
            "width": self._widths,
        }
        same = {"origin": self._origin, "state": "ok", "reason": "", "detail": "", "shard": self._unit, "attempts": 0}
        columns = {
            member.name: column(own[member.name], member.type)
            if member.name in own
            else pa.repeat(pa.scalar(same.get(member.name), member.type), count)
            for member in SCHEMA
        }
        return pa.table(columns, schema=SCHEMA)

    def _row(self, at: int) -> LedgerRow:
        return LedgerRow(
            row=self._first + at,
            key=self._keys[at],
            origin=self._origin,
            origin_row=at,
            state="ok",
            shard=self._unit,
            shard_row=self._shard_rows[at],
            height=self._heights[at],
            width=self._widths[at],
        )


def to_table(rows: Iterable[LedgerRow]) -> pa.Table:
    listed = list(rows)
    columns = {member.name: column([getattr(row, member.name) for row in listed], member.type) for member in SCHEMA}
    return pa.table(columns, schema=SCHEMA)


def to_bytes(table: pa.Table) -> bytes:
    """The parquet file of one unit's ledger."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=_REPEATED, column_encoding=_ENCODED)
    return bytes(sink.getvalue().to_pybytes())


def read_rows(path: Path) -> list[LedgerRow]:
    """The rows of one unit's ledger. Raises DataError for a file that is damaged or of another schema."""
    try:
        table = pq.read_table(path)
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # a changed byte can mean anything
        raise DataError("ledger_unreadable", f"{path}: {' '.join(str(error).split())}") from error
    if table.schema.names != [field.name for field in fields(LedgerRow)]:
        raise DataError("ledger_schema", f"{path}: columns are {table.schema.names}")
    return [LedgerRow(**row) for row in rows]


def first_of_each(files: Iterable[Path], reasons: Collection[str]) -> dict[str, LedgerRow]:
    """The first row under each of these reasons, without its picture; files are read until all are found."""
    found: dict[str, LedgerRow] = {}
    names = [name for name in SCHEMA.names if name != "thumbnail"]
    for file in files:
        if len(found) == len(reasons):
            break
        table = pq.read_table(file, columns=names)
        for at, reason in enumerate(table.column("reason").to_pylist()):
            if reason in reasons and reason not in found:
                found[reason] = LedgerRow(**table.slice(at, 1).to_pylist()[0])
    return found


def counts(states: Iterable[str]) -> dict[str, int]:
    """Records by state, every state named, in the order of `STATES`.

    >>> counts(["ok", "ok", "filtered"])["ok"]
    2
    """
    seen = Counter(states)
    unknown = set(seen) - set(STATES)
    if unknown:
        raise DataError("ledger_state", f"unknown states {sorted(unknown)}")
    return {state: seen.get(state, 0) for state in STATES}
