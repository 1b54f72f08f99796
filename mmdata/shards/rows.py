"""Parquet and Arrow IPC files that others have written, as a source: a medium is the value of a column in a row.

An index gives each part an offset. Of such a file it is the part's number times `APART`: row, column and item of a list
in one number (`offset_of`), so that what reads shards by offset and size reads these, too.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmdata.errors import DataError
from mmdata.shards import access
from mmdata.shards.access import Source

APART = 1 << 30
COLUMNS, ITEMS = 1 << 5, 1 << 6
MOST_ROWS = 1 << 22
LARGEST = 1 << 29
"""Bytes of the largest medium: parts lie farther apart than they are long, so that none seem neighbours."""
GROUPS = 4
"""Row groups that a file keeps decoded: readers in order need one, a shuffled block a few."""
SUFFIXES = (".parquet", ".arrow")


def is_table(name: str) -> bool:
    """Whether the name of a shard is that of a table, and not of a tar.

    >>> is_table("s3://b/train-0.parquet?v=1"), is_table("a/0.tar")
    (True, False)
    """
    return name.partition("?")[0].endswith(SUFFIXES)


def offset_of(row: int, column: int, item: int) -> int:
    """The offset under which `RowSource.read` finds an item of a list (or 0) in a row of the column-th column."""
    return ((row * COLUMNS + column) * ITEMS + item) * APART


def open_shard(uri: str) -> Source:
    """A shard by its name: a table by rows, else the file's bytes."""
    return RowSource(uri) if is_table(uri) else access.open_source(uri)


class RowSource:
    """A table of media that any thread may read; see `Source`. At most `GROUPS` row groups of the columns that are
    read are held. Raises DataError `shard_missing` or `shard_table` for a file that is none or is damaged."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._columns: OrderedDict[tuple[int, int], pa.Array] = OrderedDict()
        try:
            filesystem, path = fsspec.core.url_to_fs(uri)
            self.size = int(filesystem.size(path))
            self._file: Any = filesystem.open(path, "rb")
            if uri.partition("?")[0].endswith(".parquet"):
                self._parquet: Any = pq.ParquetFile(self._file, pre_buffer=False)
                self.schema: pa.Schema = self._parquet.schema_arrow
                footer = self._parquet.metadata
                counts = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
            else:
                self._parquet = None
                self._batches = _arrow_batches(self._file)
                self.schema = self._batches.schema
                counts = [batch.num_rows for batch in self._batches.to_batches()]
        except FileNotFoundError as error:
            raise DataError("shard_missing", f"{uri}: no such file") from error
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError("shard_table", f"{uri}: {error}") from error
        self.firsts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def group(self, number: int) -> pa.Table:
        """All columns of a row group, or of a record batch, as a table."""
        try:
            with self._lock:
                if self._parquet is not None:
                    return self._parquet.read_row_group(number, use_threads=False)
            return pa.Table.from_batches([self._batches.to_batches()[number]])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError("shard_table", f"{self.uri}: row group {number}: {error}") from error

    def view(self, offset: int, size: int) -> memoryview:
        """The bytes of a part, read-only, in the memory of its row group. Raises DataError `shard_cut` for no such
        value, or one of another size."""
        place, odd = divmod(offset, APART)
        place, item = divmod(place, ITEMS)
        row, column = divmod(place, COLUMNS)
        if odd or not 0 <= row < self.firsts[-1] or column >= len(self.schema):
            raise DataError("shard_cut", f"{self.uri}: {self.firsts[-1]} rows, row {row}, column {column} expected")
        group = int(np.searchsorted(self.firsts, row, side="right")) - 1
        scalar = self._column(group, column)[row - int(self.firsts[group])]
        data = value_bytes(scalar, item)
        if data is None or len(data) != size:
            found = "nothing" if data is None else f"{len(data)} bytes"
            raise DataError("shard_cut", f"{self.uri}: {found} in row {row} of {self.schema.names[column]!r}")
        return data

    def read(self, offset: int, size: int) -> bytes:
        """A copy of these bytes."""
        return bytes(self.view(offset, size))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer of the part's size."""
        buffer[:] = self.view(offset, len(buffer))

    def again(self, offset: int, size: int) -> bytes | None:
        """None: nothing lies between a table and who reads it."""
        return None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _column(self, group: int, column: int) -> pa.Array:
        with self._lock:
            found = self._columns.get((group, column))
            if found is not None:
                self._columns.move_to_end((group, column))
                return found
            try:
                if self._parquet is None:
                    found = self._batches.to_batches()[group].column(column)
                else:
                    name = self.schema.names[column]
                    found = self._parquet.read_row_group(group, columns=[name], use_threads=False).column(0)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DataError("shard_table", f"{self.uri}: row group {group}: {error}") from error
            self._columns[group, column] = found
            while len(self._columns) > GROUPS:
                self._columns.popitem(last=False)
            return found


def value_bytes(scalar: pa.Scalar, item: int = 0) -> memoryview | None:
    """The bytes in a value: binary, `struct{bytes, path}` as `datasets` has it, or the item-th of a list of them."""
    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.ListScalar):
        return value_bytes(scalar.values[item]) if 0 <= item < len(scalar.values) else None
    if isinstance(scalar, pa.StructScalar):
        return value_bytes(scalar["bytes"]) if "bytes" in scalar else None
    buffer = scalar.as_buffer() if hasattr(scalar, "as_buffer") else None
    return None if buffer is None else memoryview(buffer).cast("B").toreadonly()


def _arrow_batches(file: Any) -> pa.Table:
    """An IPC file, or an IPC stream, which is what `datasets` saves."""
    try:
        return pa.ipc.open_file(file).read_all()
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_stream(file).read_all()
