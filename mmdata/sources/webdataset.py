"""Others' WebDataset tars, and folders that Energon has prepared: samples found by their headers, media left where they
lie until they are wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mmdata.errors import DataError, SpecError
from mmdata.registry import register
from mmdata.shards.access import is_table, open_source
from mmdata.shards.foreign_tar import TarPass
from mmdata.sources import _growth, _messages, _tables
from mmdata.sources._energon import MEDIA, FieldMap
from mmdata.sources._members import KINDS, TEXTS, Group, groups, mapped, meta_of, parts
from mmdata.sources._shard_files import ShardFile, shard_files
from mmdata.sources._tables import json_value, printable
from mmdata.spec import InputPath, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, Origin, Place, Sample, Text


@register("source", "webdataset")
class WebDataset(SourceSpec):
    """Tars as webdataset, img2dataset, Energon and others write them. Members of one name up to its first dot are one
    sample: pictures, videos and sounds by their extensions, `.txt`, `.caption` or `.text`, and a `.json` that may hold
    a caption or a conversation and else travels in the sample's JSON, the sample's old key with it (`__key__`); a list
    that is no conversation as `json`. A sample whose only medium is of a kind that is not read (`.heic`, `.svg`, ...)
    ends as `unsupported_format`."""

    kind: Literal["webdataset"] = "webdataset"
    path: InputPath = runtime()
    """A tar, a folder of tars (searched below), a pattern (`cc3m-{00000..00331}.tar`, `*.tar`), or a folder that
    Energon has prepared (`.nv-meta`: its split and field map are honoured); local or any fsspec URL. Packed tars
    (`.tar.gz`) are refused: nothing in them can be read by place."""
    split: str = "train"
    """Of a folder that Energon has prepared."""

    def searched(self) -> tuple[str, ...]:
        return (self.path,)

    def open(self) -> Source:
        return _Tars(self)


class _Tars:
    def __init__(self, spec: WebDataset) -> None:
        self._tars = list(shard_files(spec.path, spec.split))
        if tables := [tar.uri for tar in self._tars if is_table(tar.uri)]:
            raise SpecError(f"source.path: {tables[0]} is a table, not a tar; source.kind: huggingface reads tables")
        self._files = [
            _tables.TableFile(tar.uri, name, _size(tar.uri))
            for tar, name in zip(self._tars, names([tar.uri for tar in self._tars]), strict=True)
        ]
        self._rows: dict[int, int] = {}  # of tars that were read to their end

    def inputs(self) -> list[dict[str, Any]]:
        found = []
        for tar, file in zip(self._tars, self._files, strict=True):
            told = _tables.fingerprint(file)
            if tar.excluded:
                told["excluded"] = sorted(tar.excluded)
            if tar.fields is not None:
                told["fields"] = {name: [list(place) for place in places] for name, places in tar.fields.fields}
            found.append(told)
        return found

    def continues(self, before: Sequence[Mapping[str, Any]]) -> None:
        _growth.files_continue(self._files, before, self.inputs())

    def count(self) -> int | None:
        return sum(self._rows.values()) if len(self._rows) == len(self._tars) else None

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        row = 0
        for number, (tar, file) in enumerate(zip(self._tars, self._files, strict=True)):
            first = row
            if number in self._rows and first + self._rows[number] <= start:
                row += self._rows[number]
                continue
            for at, group in enumerate(_samples(tar, file)):
                if stop is not None and row >= stop:
                    return
                if row >= start:
                    yield _record(row, at, group, tar, file)
                row += 1
            self._rows[number] = row - first


def names(uris: list[str]) -> list[str]:
    """What files are called: their paths from the deepest folder that holds all of them on.

    >>> names(["/data/a/0.tar", "/data/b/0.tar"]), names(["/data/0.tar"])
    (['a/0.tar', 'b/0.tar'], ['0.tar'])
    """
    paths = [uri.partition("?")[0] for uri in uris]
    base = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return [printable(path[len(base) :].lstrip("/")) for path in paths]


def _size(uri: str) -> int:
    source = open_source(uri)
    size = source.size
    source.close()
    return size


def _samples(tar: ShardFile, file: _tables.TableFile) -> Iterator[Group]:
    """The samples of a tar; behind the last whole one before damage, one that says what is wrong."""
    # What is no medium is read: texts, JSON, and members that a field map takes values from.
    read = {*TEXTS, "json", *_values(tar.fields)}

    def wanted(name: str, size: int) -> bool:
        extension = name.rpartition("/")[2].partition(".")[2].lower()
        suffix = extension.rpartition(".")[2]
        return size <= _tables.LONGEST and suffix not in KINDS and (extension in read or suffix in read)

    try:
        source = open_source(tar.uri)
        try:
            for group in groups(TarPass(source, wanted=wanted).members()):
                for extension, member in group.members.items():
                    if member.data is None and (extension in read or extension.rpartition(".")[2] in TEXTS):
                        group.drop = group.drop or _failed("too_large", f"{extension}: {member.size:,} bytes")
                yield group
        finally:
            source.close()
    except DataError as error:
        yield Group("", drop=_failed(error.reason, f"{file.name}: {error.detail}"))


def _values(fields: FieldMap | None) -> set[str]:
    """Members that a field map takes texts and values from."""
    return {place[0] for name, places in (fields.fields if fields else ()) if name not in MEDIA for place in places}


def _record(row: int, at: int, group: Group, tar: ShardFile, file: _tables.TableFile) -> Record:
    key = f"{row:09d}"
    origin = Origin(uri=file.name, row=at)
    sample = Sample(key=key, parts=(), meta={"__key__": printable(group.key)}, origin=origin)
    if at in tar.excluded:
        return Record(row=row, sample=sample, drop=Drop(reason="excluded", detail="by the split of its dataset"))
    if group.drop is not None:
        return Record(row=row, sample=sample, drop=group.drop)
    try:
        found, _ = parts(group) if tar.fields is None else mapped(group, tar.fields)
        value = json_value(meta_of(group))
    except (DataError, ValueError) as error:
        reason, detail = (error.reason, error.detail) if isinstance(error, DataError) else ("bad_record", str(error))
        return Record(row=row, sample=sample, drop=_failed(reason, printable(f"{group.key}: {detail}")))
    made = [_part(part, group, tar, file) for part in found]
    if isinstance(value, list) and not _messages.is_talk(value):
        value = {"json": value}
    meta = {**value, **sample.meta} if isinstance(value, dict) else sample.meta
    return Record(row=row, sample=replace(sample, parts=tuple(made), meta=meta))


def _part(part: Media | Text | str, group: Group, tar: ShardFile, file: _tables.TableFile) -> Media | Text:
    if isinstance(part, Text):
        return replace(part, text=printable(part.text))
    if isinstance(part, str):
        return Text(text=(group.members[part].data or b"").decode())
    member = group.members[part.uri or ""]
    place = Place(offset=member.offset, size=member.size, crc32c=None, shard=tar.uri)
    return replace(part, uri=printable(f"{file.name}#{member.name.removeprefix('./')}"), data=None, place=place)


def _failed(reason: str, detail: str) -> Drop:
    return Drop(reason=reason, detail=detail, state="failed_permanent")
