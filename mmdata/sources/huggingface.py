"""Hugging Face `datasets`: folders that it saved, Parquet and Arrow files with media in their columns, and its hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import model_validator

from mmdata.errors import DataError, SpecError
from mmdata.registry import register
from mmdata.shards.access import is_table, local_path
from mmdata.shards.rows import RowSource, open_shard
from mmdata.sources import _growth, _rows, _tables
from mmdata.sources._columns import Columns, columns
from mmdata.sources._naming import Naming
from mmdata.sources._paths import within
from mmdata.sources._shard_files import shard_files
from mmdata.sources._tables import printable
from mmdata.sources.webdataset import names
from mmdata.spec import InputPath, Model, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, Origin, Sample, Text

ROWS = 64
"""Rows with their media that are in memory at once."""


class HuggingFaceColumns(Model):
    """What columns hold, where neither the features that `datasets` wrote into a file nor their names tell."""

    image: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    video: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    """In the order of tokens, each perhaps with a role: `[question:user, answer:assistant]`."""
    conversations: str | None = None
    """A column of messages. A row where it is null has the caption that stands in a column of that name (`text`,
    `caption`, ...); else that is meta."""


@register("source", "huggingface")
class HuggingFace(SourceSpec):
    """Tables as `datasets` writes and reads them. Columns of Image, Audio and Video (bytes, or paths and URLs, or lists
    of them), texts, conversations, and OBELICS' lists of pictures between texts become the parts of a sample; all
    other plain columns travel in its JSON, class labels by their names."""

    kind: Literal["huggingface"] = "huggingface"
    path: InputPath | None = runtime(None)
    """A folder of `save_to_disk`, a `.parquet` or `.arrow` file, a folder of them, or a pattern; local or any fsspec
    URL."""
    hub: str | None = None
    """Or what `datasets.load_dataset` takes: a name on the hub (`HuggingFaceM4/the_cauldron`), or a folder; it is
    streamed, nothing is kept of it."""
    config: str | None = None
    """Of `hub`: the configuration."""
    revision: str | None = None
    """Of `hub`: a commit, tag or branch. The build is bound to the commit that it means when it begins."""
    split: str = "train"
    """Of `hub`, and of a saved DatasetDict."""
    root: InputPath | None = runtime(None)
    """What paths of media without bytes are relative to. Default: the folder of the file. A path that leads out of it
    is refused."""
    columns: HuggingFaceColumns = HuggingFaceColumns()
    """What the columns hold."""

    @model_validator(mode="after")
    def _one_place(self) -> HuggingFace:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either path (files that are here) or hub (a name on the hub)")
        return self

    def searched(self) -> tuple[str, ...]:
        return (self.path or self.hub or "",)

    def open(self) -> Source:
        return _Hub(self) if self.hub is not None else _Files(self)

    def naming(self) -> Naming:
        """The columns as the user says them."""
        given = self.columns
        return Naming(
            image=given.image,
            audio=given.audio,
            video=given.video,
            text=given.text,
            conversations=given.conversations,
        )


class _Files:
    def __init__(self, spec: HuggingFace) -> None:
        self._spec = spec
        uris = list(_uris(spec.path or "", spec.split))
        self._files = [_file(uri, name) for uri, name in zip(uris, names(uris), strict=True)]
        self._counts, self._told = [], []
        for file in self._files:
            schema, count = _head(file)
            self._counts.append(count)
            self._told.append(columns(schema, f"source.columns: {file.name}", spec.naming()))

    def inputs(self) -> list[dict[str, Any]]:
        return [_tables.fingerprint(file) for file in self._files]

    def continues(self, before: Sequence[Mapping[str, Any]]) -> None:
        _growth.files_continue(self._files, before, self.inputs())

    def count(self) -> int | None:
        return sum(self._counts)

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        first = 0
        for file, count, told in zip(self._files, self._counts, self._told, strict=True):
            if first + count > start:
                root = (self._spec.root or file.url.rpartition("/")[0]).rstrip("/")
                for at, table, damage in _tables_from(file, max(0, start - first), count):
                    for offset in range(table.num_rows if table is not None else 1):
                        row = first + at + offset
                        if stop is not None and row >= stop:
                            return
                        origin = Origin(uri=file.name, row=at + offset)
                        yield _record(row, origin, table, offset, told, root, damage)
            first += count


class _Hub:
    """A dataset that is streamed from the hub."""

    def __init__(self, spec: HuggingFace) -> None:
        import datasets

        self._spec = spec
        self._commit = None if Path(spec.hub or "").is_dir() else _commit(spec)
        try:
            self._rows = datasets.load_dataset(
                spec.hub, spec.config, split=spec.split, revision=self._commit, streaming=True
            )
        except Exception as error:  # `datasets` raises whatever its many readers do
            raise DataError("source_unreadable", f"source.hub: {spec.hub}: {_one_line(error)}") from error
        self._told: Columns | None = None

    def inputs(self) -> list[dict[str, Any]]:
        return [{"name": self._spec.hub, "config": self._spec.config, "commit": self._commit}]

    def count(self) -> int | None:
        return None

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        row = start
        name = printable(self._spec.hub or "")
        root = (self._spec.root or f"hf://datasets/{self._spec.hub}@{self._commit}").rstrip("/")
        try:
            for table in self._rows.with_format("arrow").skip(start).iter(batch_size=ROWS):
                if self._told is None:
                    self._told = columns(self._schema(table), f"source.columns: {name}", self._spec.naming())
                for at in range(table.num_rows):
                    if stop is not None and row >= stop:
                        return
                    yield _record(row, Origin(uri=name, row=row), table, at, self._told, root, "")
                    row += 1
        except (SpecError, DataError):
            raise
        except Exception as error:  # a server that fails, a file that `datasets` cannot read
            raise DataError("source_unreadable", f"{name}: row {row}: {_one_line(error)}") from error

    def _schema(self, table: pa.Table) -> pa.Schema:
        features = self._rows.features
        return table.schema if features is None else features.arrow_schema


def _commit(spec: HuggingFace) -> str:
    """The commit on the hub that a build is bound to."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(spec.hub or "", revision=spec.revision, timeout=20).sha)
    except Exception as error:  # of the hub's client, or of the HTTP library that it uses this year
        raise DataError(
            "source_unreadable",
            f"source.hub: {spec.hub}: {_one_line(error)}; without a network, save it where there is one "
            "(`save_to_disk`) and give source.path",
        ) from error


def _uris(path: str, split: str) -> Iterator[str]:
    """The files of a saved dataset in their order, or the tables that a path means."""
    local = local_path(path)
    folder = Path(local) if local is not None else None
    if folder is not None and (folder / "dataset_dict.json").is_file():
        known = json.loads((folder / "dataset_dict.json").read_text()).get("splits", [])
        if split not in known:
            raise SpecError(f"source.split: {path} has no split {split!r}; it has {', '.join(map(str, known))}")
        folder = folder / split
    if folder is not None and (folder / "state.json").is_file():
        state = json.loads((folder / "state.json").read_text())
        yield from (str(folder / file["filename"]) for file in state["_data_files"])
        return
    for found in shard_files(path):
        if not is_table(found.uri):
            raise SpecError(f"source.path: {found.uri} is a tar; source.kind: webdataset reads tars")
        yield found.uri


def _file(uri: str, name: str) -> _tables.TableFile:
    local = local_path(uri)
    if local is not None:
        return _tables.TableFile(uri, name, os.path.getsize(local))
    source = open_shard(uri) if uri.endswith(".arrow") else None
    if source is None:
        from mmdata.shards.access import open_source

        source = open_source(uri)
    source.close()
    return _tables.TableFile(uri, name, source.size)


def _head(file: _tables.TableFile) -> tuple[pa.Schema, int]:
    """The schema of a file and its rows, one more where it ends too early. Raises DataError for what is no table."""
    if not file.url.partition("?")[0].endswith(".parquet"):
        source = open_shard(file.url)
        assert isinstance(source, RowSource), file
        source.close()
        return source.schema, int(source.firsts[-1]) + bool(source.damage)
    with _tables.opened(file) as stream:
        parquet = _tables.parquet_file(file, stream)
        return parquet.schema_arrow, int(parquet.metadata.num_rows)


def _tables_from(file: _tables.TableFile, start: int, count: int) -> Iterator[tuple[int, pa.Table | None, str]]:
    """(first row, at most `ROWS` rows, "") from row `start` on; of rows that are damaged (row, None, what is wrong)."""
    if file.url.partition("?")[0].endswith(".parquet"):
        yield from _parquet_from(file, start)
        return
    source = open_shard(file.url)
    assert isinstance(source, RowSource), file
    for number, first in enumerate(source.firsts[:-1].tolist()):
        end = int(source.firsts[number + 1])
        if end <= start:
            continue
        begin = max(first, start)
        try:
            group = source.group(number)
        except DataError as error:
            yield from ((row, None, str(error)) for row in range(begin, end))
            continue
        for at in range(begin, end, ROWS):
            yield at, group.slice(at - first, min(ROWS, end - at)), ""
    if source.damage:
        yield count - 1, None, f"shard_cut: {source.damage}"
    source.close()


def _parquet_from(file: _tables.TableFile, start: int) -> Iterator[tuple[int, pa.Table | None, str]]:
    with _tables.opened(file) as stream:
        parquet: pq.ParquetFile = _tables.parquet_file(file, stream)
        at = 0
        for group in range(parquet.num_row_groups):
            end = at + parquet.metadata.row_group(group).num_rows
            if end > start:
                try:
                    for batch in parquet.iter_batches(batch_size=ROWS, row_groups=[group]):
                        skip = min(max(0, start - at), batch.num_rows)
                        if skip < batch.num_rows:
                            yield at + skip, pa.Table.from_batches([batch]).slice(skip), ""
                        at += batch.num_rows
                except (pa.ArrowException, OSError) as error:
                    told = f"row_group_damaged: row group {group}: {_one_line(error)}"
                    yield from ((row, None, told) for row in range(max(at, start), end))
            at = end


def _record(row: int, origin: Origin, table: pa.Table | None, at: int, told: Columns, root: str, damage: str) -> Record:
    empty = Sample(key=f"{row:09d}", parts=(), origin=origin)
    try:
        if table is None:
            reason, _, detail = damage.partition(": ")
            raise DataError(reason, f"{origin.uri}: {detail}")
        by_column, found = _rows.members(table, at, origin.row, told, addresses=True)
        made = [_part(part, found, root) for part in _rows.parts(table, at, told, by_column, found)]
        meta = _with_labels(_rows.meta_of(table, at, told), table.schema)
    except DataError as error:
        detail = error.detail if damage else f"{origin.uri} row {origin.row}: {error.detail}"
        return Record(
            row=row, sample=empty, drop=Drop(reason=error.reason, detail=printable(detail), state="failed_permanent")
        )
    return Record(row=row, sample=replace(empty, parts=tuple(made), meta=meta))


def _part(part: Media | Text, found: _rows.Members, root: str) -> Media | Text:
    if isinstance(part, Text):
        return replace(part, text=printable(part.text))
    member = found[part.uri or ""]
    if member.data is not None:
        return replace(part, uri=None if member.address is None else printable(member.address))
    return replace(part, uri=within(root, printable(member.address or "")))


def _with_labels(meta: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Numbers of classes by their names, where `datasets` wrote them into the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        labels = {name: of["names"] for name, of in features.items() if of.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return meta
    return {
        name: labels[name][value]
        if name in labels and isinstance(value, int) and 0 <= value < len(labels[name])
        else value
        for name, value in meta.items()
    }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
