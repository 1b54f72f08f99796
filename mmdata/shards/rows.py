"""Parquet and Arrow IPC files that others have written, as a source: a medium is the value of a column in a row.

An index gives each part an offset. Of such a file it is a number made of row, column and item of a list (`offset_of`),
so that what reads shards by offset and size reads these, too. Such offsets say nothing of how far parts lie apart.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmdata.errors import DataError
from mmdata.shards import access
from mmdata.shards import cache as caches
from mmdata.shards.access import Source
from mmdata.shards.access import is_table as is_table
from mmdata.shards.cache import Cache
from mmdata.shards.prefetch import Prefetcher
from mmdata.shards.remote import RemoteSource

ITEMS, COLUMNS = 1 << 14, 1 << 12
"""Items of a list and columns of a table that an offset can tell apart. The other 37 bits are the row's."""
GROUPS = 4
"""Row groups that a file keeps decoded: readers in order need one, a shuffled block a few."""


def offset_of(row: int, column: int, item: int) -> int:
    """The offset under which `RowSource.read` finds an item of a list (or 0) in a row of the column-th column.

    >>> offset_of(0, 0, 3), offset_of(0, 1, 0), offset_of(1, 0, 0)
    (3, 16384, 67108864)
    """
    return (row * COLUMNS + column) * ITEMS + item


def open_shard(
    uri: str,
    *,
    cache: Cache | None = None,
    size: int | None = None,
    digest: str | None = None,
    ahead: Prefetcher | None = None,
) -> Source:
    """A shard by its name: a table by rows, else the file's bytes; the arguments are those of `access.open_source`.

    An Arrow file behind a URL is mapped from `cache`, by default the user's own. Raises as `RowSource` does, and
    RunError when its storage keeps failing or the cache has no room for it.
    """
    if not is_table(uri):
        return access.open_source(uri, cache=cache, size=size, digest=digest, ahead=ahead)
    if uri.partition("?")[0].endswith(".parquet"):
        return RowSource(access.open_source(uri, cache=cache, size=size, digest=digest))
    local = access.local_path(uri)
    if local is None:
        local = str((cache or caches.default()).local_path(uri, size=size, digest=digest))
    return RowSource(access.open_source(local), uri=uri)


class RowSource:
    """A table of media that any thread may read; see `Source`. Parquet is read from `source`, at most `GROUPS` row
    groups of the columns that are asked for are held; an Arrow file is a local one, and mapped.

    `firsts` are the first rows of its row groups (record batches), and their end: int64 [groups + 1]. `damage` says
    where an Arrow file ends before its time, which has the batches before. Raises DataError `shard_table` for a file
    that is no table.
    """

    def __init__(self, source: Source, *, uri: str | None = None) -> None:
        self.uri = uri or source.uri
        self.size = source.size
        self.damage = ""
        self._source = source
        self._remote = isinstance(source, RemoteSource)
        self._lock = threading.Lock()
        self._columns: OrderedDict[tuple[int, int], pa.Array] = OrderedDict()
        try:
            self._read: _Parquet | _Arrow = (
                _Parquet(source.read, self.size)
                if self.uri.partition("?")[0].endswith(".parquet")
                else _Arrow(source.uri)
            )
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError("shard_table", f"{self.uri}: {_one_line(error)}") from error
        self.schema: pa.Schema = self._read.schema
        self.damage = self._read.damage
        self.firsts = np.concatenate([[0], np.cumsum(self._read.counts, dtype=np.int64)])

    def group(self, number: int) -> pa.Table:
        """All columns of a row group, or of a record batch, as a table. Raises DataError `row_group_damaged`."""
        return self._whole(number, None)

    def view(self, offset: int, size: int) -> memoryview:
        """The bytes of a part, read-only, in the memory of its row group. Raises DataError `shard_cut` for no such
        value, or one of another size, and `row_group_damaged`."""
        row, column, item = self._place(offset)
        group = int(np.searchsorted(self.firsts, row, side="right")) - 1
        data = value_bytes(self._column(group, column)[row - int(self.firsts[group])], item)
        if data is None or len(data) != size:
            found = "nothing" if data is None else f"{len(data)} bytes"
            name = self.schema.names[column]
            raise DataError("shard_cut", f"{self.uri}: {found} in row {row} of {name!r}, {size} bytes expected")
        return data

    def read(self, offset: int, size: int) -> bytes:
        """A copy of these bytes."""
        return bytes(self.view(offset, size))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer of the part's size."""
        buffer[:] = self.view(offset, len(buffer))

    def again(self, offset: int, size: int) -> bytes | None:
        """Of a remote Parquet file what its origin has now; what the cache has of it otherwise is thrown away."""
        if not self._remote:
            return None
        row, column, _ = self._place(offset)
        group = int(np.searchsorted(self.firsts, row, side="right")) - 1
        with self._lock:
            self._columns.clear()
            self._columns[group, column] = self._past_caches(group, self.schema.names[column]).column(0)
        return self.read(offset, size)

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()

    def _place(self, offset: int) -> tuple[int, int, int]:
        place, item = divmod(offset, ITEMS)
        row, column = divmod(place, COLUMNS)
        if not 0 <= row < self.firsts[-1] or column >= len(self.schema):
            raise DataError("shard_cut", f"{self.uri}: {self.firsts[-1]} rows, row {row}, column {column} expected")
        return row, column, item

    def _column(self, group: int, column: int) -> pa.ChunkedArray:
        with self._lock:
            found = self._columns.get((group, column))
            if found is not None:
                self._columns.move_to_end((group, column))
                self._read.check()
                return found
        found = self._whole(group, self.schema.names[column]).column(0)
        with self._lock:
            self._columns[group, column] = found
            while len(self._columns) > GROUPS:
                self._columns.popitem(last=False)
        return found

    def _whole(self, group: int, column: str | None) -> pa.Table:
        try:
            with self._lock:
                self._read.check()
                try:
                    return self._read.group(group, column)
                except (pa.ArrowException, OSError, ValueError):
                    if not self._remote:
                        raise
                    return self._past_caches(group, column)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError("row_group_damaged", f"{self.uri}: row group {group}: {_one_line(error)}") from error

    def _past_caches(self, group: int, column: str | None) -> pa.Table:
        def read(offset: int, size: int) -> bytes:
            return self._source.again(offset, size) or b""

        return _Parquet(read, self.size).group(group, column)


class _Parquet:
    """A Parquet file by a function that reads ranges of it. Errors of the storage pass through pyarrow unchanged."""

    damage = ""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._file = pq.ParquetFile(_Ranges(read, size), pre_buffer=False, page_checksum_verification=True)
        self.schema = self._file.schema_arrow
        footer = self._file.metadata
        self.counts = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]

    def group(self, number: int, column: str | None) -> pa.Table:
        columns = None if column is None else [column]
        return self._file.read_row_group(number, columns=columns, use_threads=False)

    def check(self) -> None:
        """Reads say themselves when something is wrong."""


class _Arrow:
    """A mapped IPC file, or an IPC stream, which is what `datasets` saves: batches are views of the map. Of a file that
    is compressed they are unpacked when they are asked for, column by column; of a stream that is, all at once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._map = pa.memory_map(path)
        self._size = self._map.size()
        self._batches: list[pa.RecordBatch] | None = None
        self.damage = ""
        try:
            self._reader = pa.ipc.open_file(self._map)
            self.schema = self._reader.schema
            self._in_place = self._lies_in_the_map()
            small = next((at for at, kind in enumerate(self.schema.types) if pa.types.is_primitive(kind)), None)
            reader = self._reader if self._in_place or small is None else self._only(small)
            self.counts = self._counted(reader.get_batch(at).num_rows for at in range(reader.num_record_batches))
        except pa.ArrowInvalid:
            self._map.seek(0)
            stream = pa.ipc.open_stream(self._map)
            self.schema, self._batches = stream.schema, []
            self.counts = self._counted(self._batches.append(batch) or batch.num_rows for batch in stream)  # type: ignore[func-returns-value]

    def group(self, number: int, column: str | None) -> pa.Table:
        if self._batches is not None:
            batch = self._batches[number]
        elif column is None or self._in_place:
            batch = self._reader.get_batch(number)
        else:
            batch = self._only(self.schema.names.index(column)).get_batch(number)
        return pa.Table.from_batches([batch if column is None else batch.select([column])])

    def check(self) -> None:
        """To touch a page behind the end of a file that was cut after it was mapped would kill the process."""
        if os.path.exists(self._path) and os.stat(self._path).st_size < self._size:
            raise DataError("shard_cut", f"{self._path}: {self._size} bytes when it was opened, it has fewer now")

    def _lies_in_the_map(self) -> bool:
        """Whether batches are views of the map, as they are unless they are compressed."""
        if not self._reader.num_record_batches:
            return True
        self._map.seek(0)
        begin = self._map.read_buffer(1).address
        buffers = [buffer for column in self._reader.get_batch(0).columns for buffer in column.buffers()]
        return all(begin <= buffer.address < begin + self._size for buffer in buffers if buffer and buffer.size)

    def _only(self, column: int) -> pa.RecordBatchFileReader:
        """A reader that unpacks one column only. What it reads is copied."""
        return pa.ipc.open_file(self._map, options=pa.ipc.IpcReadOptions(included_fields=[column]))

    def _counted(self, counts: Any) -> list[int]:
        found: list[int] = []
        try:
            found.extend(counts)
        except (pa.ArrowException, OSError) as error:
            self.damage = f"after row {sum(found)}: {_one_line(error)}"
        return found


class _Ranges(io.RawIOBase):
    """A file object of a function that reads ranges."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self._range = read
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        data = self._range(self._at, count) if count else b""
        self._at += len(data)
        return data


def value_bytes(scalar: pa.Scalar, item: int = 0) -> memoryview | None:
    """The bytes in a value: binary, `struct{bytes, path}` as `datasets` has it, or the item-th of a list of them; None
    where there are none."""
    if isinstance(scalar, pa.DictionaryScalar | pa.ExtensionScalar):
        scalar = scalar.value
    if scalar is None or not scalar.is_valid:
        return None
    if isinstance(scalar, pa.ListScalar):
        return value_bytes(scalar.values[item]) if 0 <= item < len(scalar.values) else None
    if isinstance(scalar, pa.StructScalar):
        return value_bytes(scalar["bytes"]) if "bytes" in scalar else None
    return memoryview(scalar.as_buffer()).cast("B").toreadonly() if is_binary(scalar.type) else None


def is_binary(kind: pa.DataType) -> bool:
    """Whether values of a type are bytes, and not text."""
    tests = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_fixed_size_binary,
    )
    return any(test(kind) for test in tests)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
