"""The Arrow index beside a shard: one row per sample, with the place, the crc32c and the facts of each part."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from mmdata import arrays
from mmdata.checksum import crc32c
from mmdata.collector import paused
from mmdata.errors import DataError
from mmdata.native.calls import calls
from mmdata.shards import arrow, layout, packet_table
from mmdata.shards.cells import Cell, cell
from mmdata.types import Media, Place, Stored, Text

FOREIGN = "foreign"
"""The `format` of a meta part that another than we wrote: all of its JSON object is the sample's meta."""
PartKind = Literal["text", "image", "video", "audio", "stored", "meta"]

PART = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("crc32c", pa.uint32(), nullable=False),
        pa.field("role", pa.string()),
        pa.field("train", pa.bool_()),
        pa.field("format", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("mode", pa.string()),
        pa.field("frames", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("seconds", pa.float64()),
        pa.field("sample_rate", pa.int32()),
        pa.field("channels", pa.int32()),
        pa.field("samples", pa.int64()),
        pa.field("packets", pa.binary()),
        pa.field("marks", pa.map_(pa.string(), pa.list_(pa.int32()))),
        pa.field("sha256", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("verified", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("inline", pa.binary()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("origin_row", pa.int64(), nullable=False),
        pa.field("parts", pa.list_(pa.field("item", PART, nullable=False)), nullable=False),
        pa.field("signatures", pa.map_(pa.string(), pa.binary())),
        pa.field("crc32c", pa.uint32(), nullable=False),
    ]
)


def _without_sums() -> pa.Schema:
    part = pa.struct([each.with_nullable(True) if each.name == "crc32c" else each for each in PART])
    parts = pa.field("parts", pa.list_(pa.field("item", part, nullable=False)), nullable=False)
    given = {"parts": parts, "crc32c": SCHEMA.field("crc32c").with_nullable(True)}
    return pa.schema([given.get(each.name, each) for each in SCHEMA])


UNSUMMED = _without_sums()
"""Of an index whose makers took no sums (`mmdata.index --digest none`): every `crc32c` is null."""
_HEADS = ((layout.head(SCHEMA), True), (layout.head(UNSUMMED), False))
"""How an index begins, as this Arrow writes it, and whether it has sums."""
_LISTS = 10
"""The buffers of the columns before `parts`: of strings three, of numbers two."""
_NAME, _OFFSET, _SIZE, _CRC = (_LISTS + place for place in (3, 9, 11, 13))
"""Those of parts: of the list validity and offsets, of the struct validity, then those of each field in turn."""
_LYING = (1, 2, _LISTS + 1, _NAME + 1, _NAME + 2, _OFFSET + 1, _SIZE + 1)
_FACTS = ("height", "width", "mode", "frames", "fps", "seconds", "sample_rate", "channels", "samples")


class Part(NamedTuple):
    """One member of the shard; a tuple, of which millions are made at little cost.

    `name` is what follows `<key>.` in the tar; `meta` parts hold the sample's JSON; `packets` is a video's packet
    table, as `packet_table` packs it, and `marks` its marked frames, sorted by name.

    A `stored` part is what a view made of the medium before it, in `format`; `digest` says of what it was made. A
    medium without a name has no member: its own bytes were not kept, and `size` is 0. A text without a name is not a
    member by itself either (a value of a JSON member, say): the index holds it, as `inline`.
    """

    name: str
    kind: PartKind
    offset: int
    size: int
    crc32c: int | None
    role: str | None = None
    train: bool | None = None
    format: str | None = None
    height: int | None = None
    width: int | None = None
    mode: str | None = None
    frames: int | None = None
    fps: float | None = None
    seconds: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    samples: int | None = None
    packets: bytes | None = None
    marks: Sequence[tuple[str, Sequence[int]]] | None = None
    sha256: str | None = None
    uri: str | None = None
    verified: str | None = None
    digest: str | None = None
    inline: bytes | None = None

    @property
    def place(self) -> Place | None:
        """Where its bytes lie; None where they were not kept."""
        return Place(offset=self.offset, size=self.size, crc32c=self.crc32c) if self.name else None

    def facts(self) -> dict[str, Any]:
        """The media facts, by name, as the index holds them."""
        return {name: getattr(self, name) for name in _FACTS}

    def to_part(self, data: bytes | None) -> Text | Media:
        """The typed part, given its verified bytes; a medium may do without. Raises DataError `packet_table`."""
        if self.kind == "text":
            return Text(text=(data or b"").decode(), role=self.role or "caption", train=bool(self.train))
        return Media(
            kind=self.kind,  # type: ignore[arg-type]
            data=data,
            uri=self.uri,
            format=self.format,
            sha256=self.sha256,
            verified=self.verified or "none",  # type: ignore[arg-type]
            packets=None if self.packets is None else packet_table.from_bytes(self.packets),
            marks={name: tuple(frames) for name, frames in self.marks or ()},
            role=self.role,
            place=self.place,
            **self.facts(),
        )

    def to_stored(self, data: bytes | None) -> Stored:
        """The typed `stored` part, given its verified bytes, or without."""
        return Stored(
            digest=self.digest or "",
            name=self.name.removesuffix(".arrow").rpartition(".")[2],
            format=self.format or "",
            data=data,
            place=self.place,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """One sample of a shard: key, input row, origin, parts in token order, signatures of its ordered steps."""

    key: str
    row: int
    origin: str
    origin_row: int
    parts: tuple[Part, ...]
    signatures: dict[str, bytes] = field(default_factory=dict)

    def crc32c(self) -> int:
        """Of the row itself: CRC-32C of the JSON array of its values, without spaces: key, row, origin, origin_row,
        one array of values per part (in the order of `Part`), and [name, hex] per signature, sorted by name; bytes
        are in hex."""
        signatures = [[name, data.hex()] for name, data in sorted(self.signatures.items())]
        value = [self.key, self.row, self.origin, self.origin_row, self.parts, signatures]
        return int(crc32c(json_bytes(value)))


def encoder(
    default: Callable[[Any], Any] | None = None, *, sort_keys: bool = False, ascii: bool = True, allow_nan: bool = True
) -> Callable[[Any], str]:
    """JSON without spaces, as `json.dumps` writes it, of values that hold no circle. `JSONEncoder.encode` makes its C
    encoder anew for each value, which takes longer than a row does."""
    plain = json.JSONEncoder(
        separators=(",", ":"), default=default, sort_keys=sort_keys, ensure_ascii=ascii, allow_nan=allow_nan
    )
    if (make := getattr(json.encoder, "c_make_encoder", None)) is None:
        return plain.encode
    text = json.encoder.encode_basestring_ascii if ascii else json.encoder.encode_basestring
    encode = make(None, plain.default, text, None, ":", ",", sort_keys, False, allow_nan)
    return lambda value: "".join(encode(value, 0))


json_of = encoder(bytes.hex)
"""A value as `IndexRow.crc32c` sums it."""


def json_bytes(value: Any) -> bytes:
    """As `json_of`, in bytes."""
    compiled = calls()
    if compiled is not None and (made := compiled.json(value, False)) is not None:
        return made  # type: ignore[no-any-return]
    return json_of(value).encode()


class Places(NamedTuple):
    """Where the N parts of a shard lie, as columns, and the keys of its samples."""

    key_ends: np.ndarray
    """int32 [rows + 1]: where each key begins in `key_bytes`, and the last one ends."""
    key_bytes: memoryview
    firsts: np.ndarray
    """int32 [rows + 1]: the first part of each row."""
    name_ends: np.ndarray
    """int32 [N + 1]: where each name begins in `name_bytes`, and the last one ends."""
    name_bytes: memoryview
    offsets: np.ndarray
    """int64 [N]"""
    sizes: np.ndarray
    """int64 [N]"""
    crcs: np.ndarray
    """uint32 [N]"""


@paused()
def to_bytes(rows: list[IndexRow]) -> bytearray:
    """The Arrow IPC file of these rows; the same rows give the same bytes."""
    parts = [part for row in rows for part in row.parts]
    columns = zip(*parts, strict=True) if parts else iter([()] * len(PART))
    struct = pa.StructArray.from_arrays(
        [column(values, member) for values, member in zip(columns, PART, strict=True)], fields=list(PART)
    )
    ends = list(itertools.accumulate((len(row.parts) for row in rows), initial=0))
    columns_of_rows = [
        column([row.key for row in rows], SCHEMA.field("key")),
        column([row.row for row in rows], SCHEMA.field("row")),
        column([row.origin for row in rows], SCHEMA.field("origin")),
        column([row.origin_row for row in rows], SCHEMA.field("origin_row")),
        pa.ListArray.from_arrays(arrays.column(ends, pa.int32()), struct, type=SCHEMA.field("parts").type),
        _signatures(rows),
        column([row.crc32c() for row in rows], SCHEMA.field("crc32c")),
    ]
    return file_of(columns_of_rows, SCHEMA)


def file_of(columns: Sequence[pa.Array], schema: pa.Schema) -> bytearray:
    """The Arrow IPC file of these columns, in one batch."""
    batch, counted = pa.record_batch(columns, schema=schema), pa.MockOutputStream()
    with pa.ipc.new_file(counted, schema) as writer:
        writer.write_batch(batch)
    # Into a buffer that has its size from the start: one that grows is copied as it does, and again at the end.
    data = bytearray(counted.size())
    with pa.ipc.new_file(pa.FixedSizeBufferWriter(pa.py_buffer(data)), schema) as writer:
        writer.write_batch(batch)
    return data


def column(values: Sequence[Any], member: pa.Field) -> pa.Array:
    """`arrays.column`, of maps too."""
    if not pa.types.is_map(member.type):
        return arrays.column(values, member.type)
    if any(value is not None for value in values):
        return pa.array(values, member.type)
    return no_maps(len(values), member.type)


def no_maps(count: int, kind: pa.MapType) -> pa.Array:
    """Maps that are all null. `pa.nulls` gives such maps children of another length, and so other bytes."""
    none, start = arrays.column([], pa.int32()), arrays.column([0], pa.int32())
    lists = pa.ListArray.from_arrays(start, none, type=kind.item_type)
    pairs = pa.StructArray.from_arrays(
        [arrays.column([], pa.string()), lists], fields=[kind.key_field, kind.item_field]
    )
    ends = pa.py_buffer(np.zeros(count + 1, np.int32))
    absent = pa.py_buffer(bytes(-(-count // 8))) if count else None
    return pa.Array.from_buffers(kind, count, [absent, ends], count, children=[pairs])


def no_signatures(count: int) -> pa.Array:
    """The signatures of rows that have none."""
    kind = SCHEMA.field("signatures").type
    ends = pa.Array.from_buffers(pa.int32(), count + 1, [None, pa.py_buffer(np.zeros(count + 1, np.int32))], 0)
    return pa.MapArray.from_arrays(ends, *(arrays.column([], each) for each in (kind.key_type, kind.item_type)), kind)


def _signatures(rows: list[IndexRow]) -> pa.Array:
    if not any(row.signatures for row in rows):
        return no_signatures(len(rows))
    return _pairs([sorted(row.signatures.items()) for row in rows])


def _pairs(pairs: list[list[tuple[str, bytes]]]) -> pa.Array:
    flat = [pair for each in pairs for pair in each]
    ends = list(itertools.accumulate(map(len, pairs), initial=0))
    type = SCHEMA.field("signatures").type
    names = arrays.column([name for name, _ in flat], type.key_type)
    held = arrays.column([data for _, data in flat], type.item_type)
    return pa.MapArray.from_arrays(arrays.column(ends, pa.int32()), names, held, type)


class Index:
    """A memory-mapped index file. Rows are checked against their own crc32c when they are taken out.

    `crc32c` is the checksum of the whole file as the manifest holds it; with it given, a file that differs
    in any byte is refused on opening, before Arrow follows an offset in it. `compared` are the files of which that is
    known, by path, with what tells that they are the same still: they are not compared again, others are added. `sums`
    says whether its rows and parts have checksums of their own; rows without are taken out as they are. Who made both
    may have made offsets up: of a dataset that is not `trusted`, all are looked at (0.14 us a row) before any is
    followed, as without a checksum.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        crc32c: int | None = None,
        compared: MutableMapping[str | Path, tuple[int, ...]] | None = None,
        trusted: bool = True,
    ) -> None:
        self.path = path
        self._arrow: pa.RecordBatch | None = None
        self._cells: list[Cell] | None = None
        try:
            self._data, state = layout.contents(path)
        except FileNotFoundError as error:
            raise DataError("index_missing", f"{path}: no such file; run `python -m mmdata.verify`") from error
        except (pa.ArrowException, OSError) as error:
            raise DataError("index_damaged", f"{path}: {error}") from error
        self.bytes = len(self._data)
        self.mapped = self.bytes > layout.MAPPED
        if crc32c is not None:
            if compared is None or compared.get(path) != state:
                _check_file(path, self._data, crc32c)
                if compared is not None:
                    compared[path] = state
            if trusted:  # every byte is as it was written
                for head, sums in _HEADS:
                    if (found := layout.buffers(self._data, head)) is not None:
                        self._buffers: layout.Buffers | list[Any] = found
                        self._rows, self.sums = found.rows, sums
                        return
        batch = self._arrow = self._opened(check=crc32c is None or not trusted)
        self.sums = batch.schema == SCHEMA
        if not self.sums and batch.schema != UNSUMMED:
            raise DataError("index_schema", f"{path}: not an mmdata index of this version")
        self._rows = batch.num_rows
        self._buffers = [buffer or b"" for column in batch.columns for buffer in column.buffers()]

    def _opened(self, *, check: bool) -> pa.RecordBatch:
        try:
            reader = pa.ipc.open_file(pa.py_buffer(self._data))
            batch = reader.get_batch(0) if reader.num_record_batches == 1 else _one_batch(reader.read_all())
            if check:
                batch.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError("index_damaged", f"{self.path}: {error}") from error
        return batch

    @property
    def _batch(self) -> pa.RecordBatch:
        """As Arrow has it: opened when first asked for, for who only wants to know where parts lie does without."""
        if self._arrow is None:
            self._arrow = self._opened(check=False)
        return self._arrow

    def __len__(self) -> int:
        return int(self._rows)

    def keys(self, rows: np.ndarray | None = None) -> list[str]:
        """The keys of these rows (int64 [N]), or all, in shard order."""
        column = self._batch.column("key")
        keys: list[str] = (column if rows is None else column.take(arrow.indices(rows))).to_pylist()
        return keys

    def column(self, name: str) -> pa.Array:
        """A whole column, unchecked row by row: open with the manifest's crc32c, or call `verify`."""
        return self._batch.column(name)

    def parts(self) -> tuple[np.ndarray, pa.StructArray]:
        """The first part of each row, int32 [rows + 1], and all parts; unchecked like `column`. At least one row."""
        column = self._batch.column("parts")
        return arrow.numbers(column.offsets), column.values

    def places(self) -> Places:
        """Where all parts lie; unchecked like `column`. At least one row."""
        buffers, rows = self._buffers, self._rows
        firsts = np.frombuffer(buffers[_LISTS + 1], np.int32, rows + 1)
        count = int(firsts[-1])

        def numbers(at: int, kind: type[np.generic], length: int = count) -> np.ndarray:
            return np.frombuffer(buffers[at], kind, length) if length else np.zeros(0, kind)

        return Places(
            key_ends=np.frombuffer(buffers[1], np.int32, rows + 1),
            key_bytes=memoryview(buffers[2]),
            firsts=firsts,
            name_ends=numbers(_NAME + 1, np.int32, count + 1),
            name_bytes=memoryview(buffers[_NAME + 2]),
            offsets=numbers(_OFFSET + 1, np.int64),
            sizes=numbers(_SIZE + 1, np.int64),
            crcs=numbers(_CRC + 1, np.uint32),
        )

    def lying(self) -> tuple[Any, ...]:
        """The buffers that `places` reads, in its order and without those of checksums: for raw.c, which believes no
        number of them."""
        buffers = self._buffers
        return tuple([buffers[number] for number in _LYING])

    def row(self, at: int, *, check: bool = True) -> IndexRow:
        """Row `at`, 0 <= at < len. Raises DataError when its crc32c does not match."""
        try:
            if self._cells is None:
                buffers = map(self._buffers.__getitem__, itertools.count())
                self._cells = [cell(each.type, buffers) for each in SCHEMA]
            key, number, origin, origin_row, parts, signatures, stored = [take(at) for take in self._cells]
            row = IndexRow(
                key=key,
                row=number,
                origin=origin,
                origin_row=origin_row,
                parts=tuple(map(Part._make, parts)),
                signatures=dict(signatures or ()),
            )
        except (TypeError, ValueError, IndexError) as error:
            raise DataError("index_damaged", f"{self.path} row {at}: {error}") from error
        if check and self.sums and row.crc32c() != stored:
            raise DataError(
                "index_row_crc32c", f"{self.path} row {at} ({row.key}): the row has changed since the build"
            )
        return row

    def rows(self, *, check: bool = True) -> list[IndexRow]:
        """All rows, each checked."""
        return [self.row(at, check=check) for at in range(len(self))]


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    """Rows that another has written in several batches, or in none."""
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)


def _check_file(path: str | Path, data: memoryview, expected: int) -> None:
    actual = int(crc32c(data))
    if actual != expected:
        raise DataError(
            "index_crc32c",
            f"{path}: crc32c is {actual:#010x}, the manifest has {expected:#010x}; the file is damaged",
        )


assert tuple(part.name for part in PART) == Part._fields
