"""Rows of parquet, csv, tsv and jsonl files, streamed in batches, a damaged row costing only itself."""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from mmdata.errors import DataError

BATCH = 4096
FORMATS = ("parquet", "csv", "tsv", "jsonl")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


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
    `bad` says of each unreadable row what is wrong with it."""

    first: int
    rows: Sequence[int]
    table: pa.Table
    bad: dict[int, str]

    def __len__(self) -> int:
        return len(self.rows) + len(self.bad)


def table_format(name: str) -> str | None:
    """The format that a file name means, compression suffix ignored.

    >>> table_format("a/part-0.jsonl.gz"), table_format("b.PARQUET"), table_format("readme.txt")
    ('jsonl', 'parquet', None)
    """
    path = PurePosixPath(name.lower())
    suffix = PurePosixPath(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix
    return {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(suffix)


def list_files(path: str, formats: Sequence[str] = FORMATS) -> list[TableFile]:
    """The table files under a path: a file, a folder (searched below), or a glob; sorted by name.

    Raises DataError where there are none.
    """
    fs, root = fsspec.core.url_to_fs(path)
    root = root.rstrip("/")
    pattern = any(character in root for character in "*?[")
    try:
        if pattern:
            found = [name for name in fs.glob(root) if fs.isfile(name)]
            fixed = root.split("/")
            base = "/".join(fixed[: next(i for i, part in enumerate(fixed) if any(c in part for c in "*?["))])
        elif fs.isdir(root):
            found = [name for name in fs.find(root) if table_format(name) in formats]
            base = root
        else:
            found, base = ([root] if fs.exists(root) else []), root.rpartition("/")[0]
    except OSError as error:
        raise DataError("source_unreadable", f"{path}: {error}") from error
    found = [name for name in found if not fnmatch.fnmatch(name.rpartition("/")[2], ".*")]
    if not found:
        raise DataError("source_empty", f"{path}: no {', '.join(formats)} file there")
    files = []
    for name in sorted(found):
        if table_format(name) not in formats:
            raise DataError("source_format", f"{name}: not one of {', '.join(formats)} (the suffix tells)")
        files.append(TableFile(fs.unstrip_protocol(name), name[len(base) :].lstrip("/"), int(fs.info(name)["size"])))
    return files


def fingerprint(file: TableFile) -> dict[str, Any]:
    """Name, size, and SHA-256 of the first and last MiB: enough to notice another input, cheap on remote files."""
    digest = hashlib.sha256()
    with _open(file) as stream:
        digest.update(stream.read(1 << 20))
        if file.size > 1 << 20:
            stream.seek(max(1 << 20, file.size - (1 << 20)))
            digest.update(stream.read(1 << 20))
    return {"name": file.name, "size": file.size, "sha256_ends": digest.hexdigest()}


def _open(file: TableFile, compression: str | None = None) -> IO[bytes]:
    try:
        stream: IO[bytes] = fsspec.open(file.url, "rb", compression=compression).open()
    except (OSError, ValueError) as error:
        raise DataError("source_unreadable", f"{file.name}: {error}") from error
    return stream


def columns(file: TableFile) -> list[str]:
    """Column names; for jsonl the keys of its first readable lines. Raises DataError for an unreadable file."""
    if file.format == "parquet":
        with _open(file) as stream:
            return list(_parquet(file, stream).schema_arrow.names)
    for batch in batches(file):
        if batch.table.num_rows or file.format != "jsonl":
            return list(batch.table.schema.names)
    return []


def count(file: TableFile) -> int | None:
    """Number of rows where the format tells without reading everything (parquet), else None."""
    if file.format != "parquet":
        return None
    with _open(file) as stream:
        return int(_parquet(file, stream).metadata.num_rows)


def batches(file: TableFile, *, start: int = 0, select: Sequence[str] | None = None) -> Iterator[Batch]:
    """The rows of a file, at most `BATCH` at a time. Parquet begins at row `start`, without reading row groups
    that hold only earlier rows, and reads the columns `select` (those that a file lacks are left out); the
    text formats, which can only be read whole, begin at row 0 with every column."""
    if file.format == "parquet":
        yield from _parquet_batches(file, start, select)
    else:
        yield from _text_batches(file)


def _parquet(file: TableFile, stream: IO[bytes]) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(stream)
    except (pa.ArrowException, OSError) as error:
        raise DataError("source_unreadable", f"{file.name}: not a readable parquet file: {error}") from error


def _parquet_batches(file: TableFile, start: int, select: Sequence[str] | None) -> Iterator[Batch]:
    with _open(file) as stream:
        parquet = _parquet(file, stream)
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
                        table = pa.table(batch).slice(skip)
                        yield Batch(at + skip, range(at + skip, at + batch.num_rows), table, {})
                    at += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    "source_unreadable", f"{file.name}: row group {group} (rows from {at}) cannot be read: {error}"
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
    return Batch(first, rows, _table([row for row in block if not isinstance(row, str)]), bad)


def text_rows(file: TableFile) -> Iterator[dict[str, Any] | str]:
    """The rows of a csv, tsv or jsonl file: each as a dict, or a string that says why it is none."""
    try:
        with _open(file, compression="infer") as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
            if file.format == "jsonl":
                yield from _json_rows(text)
            else:
                yield from _csv_rows(file, text, "\t" if file.format == "tsv" else ",")
    except (OSError, EOFError) as error:
        raise DataError("source_unreadable", f"{file.name}: {error}") from error


def _json_rows(text: IO[str]) -> Iterator[dict[str, Any] | str]:
    for line in text:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"not JSON: {error}"
            continue
        yield value if isinstance(value, dict) else f"a JSON {type(value).__name__}, not an object"


def _csv_rows(file: TableFile, text: IO[str], delimiter: str) -> Iterator[dict[str, Any] | str]:
    csv.field_size_limit(1 << 24)
    reader = csv.reader(text, delimiter=delimiter)
    try:
        names = next(reader)
    except (StopIteration, csv.Error) as error:
        raise DataError("source_unreadable", f"{file.name}: no header line") from error
    if len(set(names)) < len(names):
        raise DataError("source_unreadable", f"{file.name}: the header names a column twice: {names}")
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"not {file.format}: {error}"
            continue
        if not row:
            continue
        if len(row) != len(names):
            yield f"{len(row)} fields where the header has {len(names)}"
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
