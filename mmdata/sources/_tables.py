"""Rows of parquet, csv, tsv, jsonl and json files, streamed in batches, a damaged row costing only itself."""

from __future__ import annotations

import codecs
import contextlib
import csv
import fnmatch
import hashlib
import io
import itertools
import json
import lzma
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmdata.errors import DataError
from mmdata.sources import _json_list

BATCH = 4096
FORMATS = ("parquet", "csv", "tsv", "jsonl")
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
LONGEST = 1 << 24
"""Characters of the longest line that is read; of a longer one no more than this is ever in memory."""
DEEPEST = 64
"""Levels of the deepest JSON value that is carried: writers and readers of deeper ones run out of stack."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """One input file. `name` is its path relative to the source, the same wherever the source lies."""

    url: str
    name: str
    size: int

    @property
    def format(self) -> str:
        return table_format(self.name) or ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one file from `first` on. `table` holds the readable ones, `rows` their numbers in the file;
    `bad` says of each unreadable row what is wrong with it. `loose` has the rows of text formats as they stand there:
    the columns of `table` take one type for all rows of a batch."""

    first: int
    rows: Sequence[int]
    table: pa.Table
    bad: dict[int, str]
    loose: Sequence[dict[str, Any]] | None = None

    def values(self) -> Sequence[dict[str, Any] | str]:
        """The readable rows as dicts; a string says what is wrong with one that Python cannot hold."""
        return values(self.table) if self.loose is None else self.loose

    def __len__(self) -> int:
        return len(self.rows) + len(self.bad)


def table_format(name: str) -> str | None:
    """The format that a file name means, compression suffix ignored.

    >>> table_format("a/part-0.jsonl.gz"), table_format("b.PARQUET"), table_format("readme.txt")
    ('jsonl', 'parquet', None)
    """
    path = PurePosixPath(name.lower())
    suffix = PurePosixPath(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix
    return {**{f".{name}": name for name in (*FORMATS, "json")}, ".ndjson": "jsonl"}.get(suffix)


def list_files(path: str, formats: Sequence[str] = FORMATS, named: Sequence[str] = ()) -> list[TableFile]:
    """The table files under a path: a file, a folder (searched below), or a glob; sorted by name. Files of the formats
    `named` are not looked for in folders, which may hold such for other reasons.

    Raises DataError where there are none.
    """
    found, base = _named_file(path) or _found_files(path, formats)
    found = [file for file in found if not fnmatch.fnmatch(file.name.rpartition("/")[2], ".*")]
    if not found:
        hint = f"; a .{' or .'.join(named)} file is read if you name it itself" if named else ""
        raise DataError("source_empty", f"{path}: no {', '.join(formats)} file there{hint}")
    files = []
    for file in sorted(found, key=lambda file: file.name):
        if table_format(file.name) not in (*formats, *named):
            known = ", ".join((*formats, *named))
            raise DataError("source_format", f"{file.name}: not one of {known} (the suffix tells)")
        files.append(replace(file, name=printable(file.name[len(base) :].lstrip("/"))))
    return files


def _named_file(path: str) -> tuple[list[TableFile], str] | None:
    """As `_found_files`, of a local file that is named itself. Most tables are, and need no fsspec."""
    if os.name != "posix" or "://" in path or "::" in path:
        return None
    name = os.path.abspath(path)
    if not os.path.isfile(name):
        return None
    return [TableFile(f"file://{name}", name, os.path.getsize(name))], os.path.dirname(name)


def _found_files(path: str, formats: Sequence[str]) -> tuple[list[TableFile], str]:
    """The files under a path, by their whole names, and the folder from which these are to count. Raises DataError
    `source_unreadable`."""
    import fsspec  # when it is needed: it takes a tenth of a second

    fs, root = fsspec.core.url_to_fs(path)
    root = root.rstrip("/")
    try:
        pattern = any(character in root for character in "*?[") and not fs.exists(root)
        if pattern:
            found = [name for name in fs.glob(root) if fs.isfile(name)]
            fixed = root.split("/")
            base = "/".join(fixed[: next(i for i, part in enumerate(fixed) if any(c in part for c in "*?["))])
        elif fs.isdir(root):
            found = [name for name in fs.find(root) if table_format(name) in formats]
            base = root
        else:
            found, base = ([root] if fs.exists(root) else []), root.rpartition("/")[0]
        files = [TableFile(fs.unstrip_protocol(name), name, int(fs.info(name)["size"] or 0)) for name in found]
    except OSError as error:
        raise DataError("source_unreadable", f"{path}: {error}") from error
    return files, base


def fingerprint(file: TableFile) -> dict[str, Any]:
    """Name, size, and SHA-256 of the first and last MiB: enough to notice another input, cheap on remote files. With
    `file.size` less than the file has, of so many bytes of it."""
    digest = hashlib.sha256()
    with opened(file) as stream:
        digest.update(stream.read(min(1 << 20, file.size)))
        if file.size > 1 << 20:
            start = max(1 << 20, file.size - (1 << 20))
            stream.seek(start)
            digest.update(stream.read(file.size - start))
    return {"name": file.name, "size": file.size, "sha256_ends": digest.hexdigest()}


def opened(file: TableFile, compression: str | None = None) -> IO[bytes]:
    """The bytes of a file, unpacked by `compression`. Raises DataError `source_unreadable`."""
    try:
        if compression is None and os.name == "posix" and file.url.startswith("file:///"):
            return open(file.url.removeprefix("file://"), "rb")
        if compression == "zstd":  # fsspec wants another package for it
            unpacked: Any = pa.CompressedInputStream(pa.PythonFile(opened(file), "r"), "zstd")
            return unpacked  # type: ignore[no-any-return]
        import fsspec  # when it is needed: it takes a tenth of a second

        stream: IO[bytes] = fsspec.open(file.url, "rb", compression=compression).open()
    except (OSError, ValueError) as error:
        raise DataError("source_unreadable", f"{file.name}: {error}") from error
    return stream


def columns(file: TableFile) -> list[str]:
    """Column names; for jsonl and json the keys of the first readable rows, none where no row is readable. Raises
    DataError for an unreadable file."""
    if file.format == "parquet":
        with opened(file) as stream:
            return list(parquet_file(file, stream).schema_arrow.names)
    if file.format in ("csv", "tsv"):
        with opened_text(file) as text:
            return _header(file, _csv_reader(file, _Lines(text)))
    return next((list(batch.table.schema.names) for batch in batches(file) if batch.table.num_rows), [])


def count(file: TableFile) -> int | None:
    """Number of rows where the format tells without reading everything (parquet), else None."""
    if file.format != "parquet":
        return None
    with opened(file) as stream:
        return int(parquet_file(file, stream).metadata.num_rows)


def batches(file: TableFile, *, start: int = 0, select: Sequence[str] | None = None) -> Iterator[Batch]:
    """The rows of a file, at most `BATCH` at a time. Parquet begins at row `start`, without reading row groups
    that hold only earlier rows, and reads the columns `select` (those that a file lacks are left out); the
    text formats, which can only be read whole, begin at row 0 with every column."""
    if file.format == "parquet":
        yield from _parquet_batches(file, start, select)
    else:
        yield from _text_batches(file)


def parquet_file(file: TableFile, stream: IO[bytes]) -> pq.ParquetFile:
    """An opened Parquet file, to be read by batches. Raises DataError `source_unreadable`."""
    try:
        # Unbuffered reading would take in a whole row group at once, which may be the whole table.
        return pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError("source_unreadable", f"{file.name}: not a readable parquet file: {_one_line(error)}") from error


def _parquet_batches(file: TableFile, start: int, select: Sequence[str] | None) -> Iterator[Batch]:
    with opened(file) as stream:
        parquet = parquet_file(file, stream)
        names = parquet.schema_arrow.names
        wanted = [name for name in select if name in names] if select is not None else names
        at = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if at + rows <= start:
                at += rows
                continue
            try:
                for batch in parquet.iter_batches(batch_size=BATCH, row_groups=[group], columns=wanted):
                    skip = min(max(0, start - at), batch.num_rows)
                    if skip < batch.num_rows:
                        table = _repaired(pa.Table.from_batches([batch]).slice(skip))
                        yield Batch(at + skip, range(at + skip, at + batch.num_rows), table, {})
                    at += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    "source_unreadable",
                    f"{file.name}: row group {group} (rows from {at}) cannot be read: {_one_line(error)}",
                ) from error


def _text_batches(file: TableFile) -> Iterator[Batch]:
    # Batches begin at multiples of BATCH wherever reading is to start: the type of a loose column is decided
    # per batch, so a resumed build must see the batches of the uninterrupted one.
    block: list[dict[str, Any] | str] = []
    first = 0
    for row in text_rows(file):
        block.append(row)
        if len(block) == BATCH:
            yield _text_batch(block, first)
            first, block = first + BATCH, []
    if block:
        yield _text_batch(block, first)


def _text_batch(block: list[dict[str, Any] | str], first: int) -> Batch:
    rows = [first + at for at, row in enumerate(block) if not isinstance(row, str)]
    bad = {first + at: row for at, row in enumerate(block) if isinstance(row, str)}
    loose = [row for row in block if not isinstance(row, str)]
    return Batch(first, rows, _table(loose), bad, loose)


def text_rows(file: TableFile, *, strict: bool = False) -> Iterator[dict[str, Any] | str]:
    """The rows of a csv, tsv, jsonl or json file: each as a dict, or a string that says why it is none. A json file
    is a list of them, or lines as in jsonl, which many call so. Bytes that are not UTF-8 become U+FFFD, or if that is
    `strict` their row is a `NotUtf8`."""
    errors = _json_list.BYTES if strict else "replace"
    lines = file.format == "jsonl"
    if file.format == "json":
        with opened_text(file) as text:
            lines = _json_list.begins(text) == "{"
    with opened_text(file, errors) as text:
        if file.format in ("csv", "tsv"):
            yield from _csv_rows(file, text)
        else:
            yield from _json_rows(text) if lines else map(_row, _json_list.items(text, file.name))


def rows_from(file: TableFile, start: int = 0) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The rows of a file of any format from `start` on, each with its number: a dict, or what is wrong with it. Those
    of text formats are read strictly."""
    if file.format != "parquet":
        yield from itertools.islice(enumerate(text_rows(file, strict=True)), start, None)
        return
    for batch in batches(file, start=start):
        yield from zip(batch.rows, batch.values(), strict=True)


def refused(row: str) -> DataError:
    """Why a row is none, of what says so in its place."""
    return DataError("text_not_utf8" if isinstance(row, _json_list.NotUtf8) else "bad_record", printable(row))


def decoded(data: bytes) -> str:
    """The text of a file: UTF-8, or UTF-16 where its first bytes say so, as some editors and shells of Windows write.

    >>> decoded("Käse".encode("utf-16")), decoded(b"\\xef\\xbb\\xbfab")
    ('Käse', 'ab')
    """
    return data.decode(_encoding(data), "replace")


def _encoding(head: bytes) -> str:
    return "utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


@contextlib.contextmanager
def opened_text(file: TableFile, errors: str = "replace") -> Iterator[IO[str]]:
    """The text of a file, decompressed; `errors` are those of UTF-8. What goes wrong in reading it raises DataError."""
    compression = _COMPRESSIONS.get(PurePosixPath(file.name.lower()).suffix)
    try:
        with opened(file, compression) as stream:
            buffered: Any = io.BufferedReader(stream)  # type: ignore[type-var]  # all that it wants is `readinto`
            encoding = _encoding(buffered.peek(2))
            errors = "replace" if encoding == "utf-16" else errors
            yield io.TextIOWrapper(buffered, encoding=encoding, errors=errors, newline="")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError("source_unreadable", f"{file.name}: {error}") from error


class _Lines:
    """The lines of a text. Of one longer than LONGEST only the beginning is read, and `cut` is set; `ended` is set once
    there are no more."""

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self.cut = self.ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = rest = self._text.readline(LONGEST)
        while len(rest) == LONGEST and rest[-1] not in "\r\n":
            rest = self._text.readline(LONGEST)
            self.cut = True
        if not line:
            self.ended = True
            raise StopIteration
        return line

    def take_cut(self) -> bool:
        """Whether a line was cut since the last call."""
        cut, self.cut = self.cut, False
        return cut


_TOO_LONG = f"a line of more than {LONGEST:,} characters"


def _json_rows(text: IO[str]) -> Iterator[dict[str, Any] | str]:
    lines = _Lines(text)
    for line in lines:
        if not line.strip():
            continue
        if lines.take_cut():
            yield _TOO_LONG
            continue
        if wrong := _json_list.spoilt(line):
            yield wrong
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"not JSON: {error}"
            continue
        yield _row(value)


def _row(value: Any) -> dict[str, Any] | str:
    if isinstance(value, _json_list.NotUtf8):
        return value
    try:
        value = json_value(value)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return value if isinstance(value, dict) else f"a JSON {type(value).__name__}, not an object"


def _csv_reader(file: TableFile, lines: _Lines) -> Any:
    csv.field_size_limit(LONGEST)
    return csv.reader(lines, delimiter="\t" if file.format == "tsv" else ",")


def _header(file: TableFile, reader: Iterator[list[str]]) -> list[str]:
    try:
        names = next([printable(name) for name in row] for row in reader if row)
    except (StopIteration, csv.Error) as error:
        raise DataError("source_unreadable", f"{file.name}: no header line") from error
    if len(set(names)) < len(names):
        raise DataError("source_unreadable", f"{file.name}: the header names a column twice: {names}")
    return names


def _csv_rows(file: TableFile, text: IO[str]) -> Iterator[dict[str, Any] | str]:
    lines = _Lines(text)
    reader = _csv_reader(file, lines)
    names = _header(file, reader)
    while True:
        began = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"not {file.format}: {error}"
            continue
        if not row:
            continue
        if lines.take_cut():
            yield _TOO_LONG
        elif lines.ended:  # within the row, and not before it
            yield f"a quote that is opened in line {began} is not closed"
        elif len(row) != len(names):
            quoted = f", in lines {began} to {reader.line_num}: is a quote not closed?"
            yield f"{len(row)} fields where the header has {len(names)}" + quoted * (reader.line_num > began)
        elif wrong := next(filter(None, map(_json_list.spoilt, row)), None):
            yield wrong
        else:
            yield {name: (value if value != "" else None) for name, value in zip(names, row, strict=True)}


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Columns from loose rows. A column whose values have no common type is kept as JSON text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            arrays[name] = pa.array(values)
        except (pa.ArrowException, OverflowError):
            arrays[name] = pa.array(
                [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
            )
    return pa.table(arrays)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _repaired(table: pa.Table) -> pa.Table:
    """The table with every text valid UTF-8, as text formats are read: what is not becomes U+FFFD."""
    try:
        table.validate(full=True)
        return table
    except pa.ArrowInvalid:
        pass
    for at, column in enumerate(table.columns):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            continue
        raw = [value.cast(pa.large_binary()).as_py() for value in column.cast(kind)]
        fixed = [None if value is None else value.decode("utf-8", "replace") for value in raw]
        table = table.set_column(at, table.schema.field(at).name, pa.array(fixed, pa.large_string()))
    return table


def values(table: pa.Table) -> list[dict[str, Any] | str]:
    """The rows of a table as dicts; where a value is none that Python can hold, a string that says so."""
    try:
        rows: list[dict[str, Any] | str] = table.to_pylist()
        return rows
    except (ValueError, OverflowError, pa.ArrowException) as error:
        if table.num_rows == 1:
            return [f"a value cannot be read: {error}"]
    return [row for at in range(table.num_rows) for row in values(table.slice(at, 1))]


def printable(text: str) -> str:
    """Text that UTF-8 can hold: halves of surrogate pairs (bytes of a file name, `\\ud800` in JSON) are replaced.

    >>> printable("a\\udcffb")
    'a?b'
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def json_value(value: Any, depth: int = 0) -> Any:
    """A value as JSON that every reader takes: NaN and infinities are null, bytes are hex, times are ISO strings,
    no half of a surrogate pair. Raises ValueError for more than DEEPEST levels."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) or value is None:
        return value
    if isinstance(value, bytes):
        return value.hex()
    if depth == DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if isinstance(value, list | tuple):
        return [json_value(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {printable(str(key)): json_value(item, depth + 1) for key, item in value.items()}
    return str(value)
