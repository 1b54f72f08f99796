"""Adopting a Parquet or Arrow file of media: its rows as rows of our index, where they lie, and a fate for each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Literal

import crc32c
import pyarrow as pa

from mmdata.decode.work import Work
from mmdata.engine import adopt, commit
from mmdata.engine.adopt import Unit
from mmdata.engine.table_columns import Columns, Naming, columns, is_string
from mmdata.errors import DataError
from mmdata.ledger import LedgerRow
from mmdata.shards import cache as caches
from mmdata.shards import rows as tables
from mmdata.shards.access import local_path, open_source
from mmdata.shards.index import FOREIGN, IndexRow, Part
from mmdata.shards.table import ShardEntry
from mmdata.sources import _messages
from mmdata.sources._tables import json_value, printable
from mmdata.steps.probe import Probe
from mmdata.types import Drop, Media, Origin, Sample, Text

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_Members = dict[str, tuple[int, bytes]]


def adopt_rows(
    folder: Any,
    unit: Unit,
    *,
    verify: Literal["full", "header"],
    keys: dict[str, str],
    pool: ThreadPoolExecutor,
    naming: Naming = Naming(),  # noqa: B008 frozen
) -> tuple[ShardEntry, list[LedgerRow]]:
    """As `adopt.adopt`, of a table. The key of a row is the name of its file and its number, or what its key column
    says. Of a damaged row group every row is counted under that reason, and the others are taken."""
    cache = None if local_path(unit.uri) is not None else caches.default()
    plain = open_source(unit.uri, cache=cache)
    stem = printable(PurePosixPath(unit.name.partition("?")[0]).stem)
    made_rows: list[IndexRow] = []
    fates: list[LedgerRow] = []

    def note(key: str, made: IndexRow | Drop) -> None:
        number = unit.input_first + len(fates)
        if isinstance(made, IndexRow) and key in keys:
            detail = f"a sample of {keys[key]} has the same key"
            made = Drop(reason="duplicate_key", detail=detail, state="duplicate", of=key)
        if isinstance(made, IndexRow):
            keys[key] = unit.name
            made_rows.append(replace(made, row=number))
        fates.append(adopt._fate(key, unit, number, len(fates), made, len(made_rows) - 1))

    try:
        source = tables.open_shard(unit.uri, cache=cache)
        assert isinstance(source, tables.RowSource), unit.uri
        told = columns(source.schema, unit.name, naming)
        probe = Probe(
            verify=verify, orientation="keep", cmyk="reject", sixteen_bit="reject", animated="reject", digest="sha256"
        )
        for number, (first, end) in enumerate(
            zip(source.firsts[:-1].tolist(), source.firsts[1:].tolist(), strict=True)
        ):
            try:
                group = source.group(number)
            except DataError as error:
                for row in range(first, end):
                    note(f"{stem}/{row:09d}", _drop(error))
                continue

            def take(at: int, group: pa.Table = group, first: int = first) -> tuple[str, IndexRow | Drop]:
                return _row(group, at, first + at, f"{stem}/{first + at:09d}", unit, told, probe)

            for key, made in pool.map(take, range(group.num_rows)):
                note(key, made)
        if source.damage:
            note("", Drop(reason="shard_cut", detail=f"{unit.name}: {source.damage}", state="failed_permanent"))
        source.close()
    except DataError as error:
        note("", _drop(error))
    entry = adopt._write(folder, unit, made_rows, fates, plain.size, adopt._sha256(plain))
    plain.close()
    return entry, fates


def _drop(error: DataError) -> Drop:
    return Drop(reason=error.reason, detail=error.detail, state="failed_permanent")


def _row(
    table: pa.Table, at: int, row: int, key: str, unit: Unit, told: Columns, probe: Probe
) -> tuple[str, IndexRow | Drop]:
    try:
        if told.key:
            key = _key(_value(table, told.key, at))
        names, members = _members(table, at, row, told)
        parts = _parts(table, at, told, names, members)
        media = tuple(part for part in parts if isinstance(part, Media))
        sample = Sample(key=key, parts=media, origin=Origin(uri=unit.name, row=row))
        probed = probe.apply(sample, Work(max_pixels=probe.max_pixels))
        if isinstance(probed, Drop):
            return key, probed
        meta = _meta(table, at, told)
    except DataError as error:
        return key, _drop(error)
    facts, listed = iter(probed.media), []
    for part in parts:
        if isinstance(part, Media):
            offset, held = members[part.uri or ""]
            own = commit._media_facts(replace(next(facts), uri=None))
            crc = int(crc32c.crc32c(held))
            listed.append(Part(name=part.uri or "", kind=part.kind, offset=offset, size=len(held), crc32c=crc, **own))
        else:
            listed.append(_inline("text", printable(part.text).encode(), role=part.role, train=part.train))
    if meta:
        listed.append(_inline("meta", json.dumps(meta).encode(), format=FOREIGN))
    return key, IndexRow(key=key, row=row, origin=unit.name, origin_row=row, parts=tuple(listed))


def _key(value: Any) -> str:
    if value is None or value == "":
        raise DataError("no_key", "its key column is empty")
    key = printable(str(value))
    if odd := adopt._odd(key):
        raise DataError("member_name", odd)
    return key


def _members(table: pa.Table, at: int, row: int, told: Columns) -> tuple[dict[str, list[str | None]], _Members]:
    """The media of a row: by column the names of its items in their order (None where an item of a list is null), by
    name their offset and bytes. A null is no medium; an address or empty bytes are not what a medium should be."""
    members: _Members = {}
    names: dict[str, list[str | None]] = {}
    for column in told.media:
        scalar = table.column(column)[at]
        listed = isinstance(scalar, pa.ListScalar)
        items = (list(scalar.values) if scalar.is_valid else []) if listed else [scalar]
        names[column] = []
        for item, value in enumerate(items):
            if not value.is_valid or (not listed and _is_empty(value)):
                if listed:
                    names[column].append(None)
                continue
            data = tables.value_bytes(value)
            if data is None or not len(data):
                raise _without_bytes(column, value)
            if item >= tables.ITEMS:
                raise DataError("too_many_media", f"{column}: a list of {len(items):,}, {tables.ITEMS:,} are the most")
            name = f"{column}.{item}" if listed else column
            offset = tables.offset_of(row, table.schema.names.index(column), item)
            members[name] = (offset, bytes(data))
            names[column].append(name)
    return names, members


def _is_empty(value: pa.Scalar) -> bool:
    """`datasets` may write a struct of nulls where it has nothing."""
    return isinstance(value, pa.StructScalar) and not any(member.is_valid for member in value.values())


def _without_bytes(column: str, value: pa.Scalar) -> DataError:
    said = value.as_py()
    path = said.get("path") if isinstance(said, dict) else said if isinstance(said, str) else None
    if not isinstance(path, str) or not path:
        return DataError("no_bytes", f"{column}: no bytes")
    if _URL.match(path):
        return DataError(
            "url_without_bytes", f"{column}: {printable(path)} is an address; fetch it with `python -m mmdata.build`"
        )
    return DataError(
        "path_without_bytes", f"{column}: {printable(path)} is a path; the file itself is not in the table"
    )


def _parts(
    table: pa.Table, at: int, told: Columns, names: dict[str, list[str | None]], members: _Members
) -> Sequence[Media | Text]:
    def media(column: str, name: str) -> Media:
        return Media(kind=told.media[column], uri=name, data=members[name][1])

    there = {column: [name for name in of if name is not None] for column, of in names.items()}
    texts = [(_value(table, column, at), role) for column, role in told.texts]
    talk = None if told.talk is None else messages(_value(table, told.talk, at))
    if talk is None and any(role for _, role in told.texts):
        talk = [{"role": role or "user", "content": str(text)} for text, role in texts if text not in (None, "")]
    if talk:
        read = _messages.parts(there, talk, told.media)
        for part in read:
            if isinstance(part, Media) and part.uri not in members:
                raise DataError("bad_record", f"its conversation names {part.uri or 'bytes of its own'}, not a column")
        return [replace(part, data=members[part.uri or ""][1]) if isinstance(part, Media) else part for part in read]
    if len(texts) == 1 and isinstance(texts[0][0], list):
        for column, of in names.items():
            if len(of) == len(texts[0][0]) > 0 and isinstance(table.column(column)[at], pa.ListScalar):
                return _interleaved([media(column, name) if name else None for name in of], texts[0][0])
    parts: list[Media | Text] = [media(column, name) for column, of in there.items() for name in of]
    for value, _ in texts:
        given = value if isinstance(value, list) else [value]
        parts += [Text(text=text) for text in given if isinstance(text, str) and text]
    if not parts:
        raise DataError("no_parts", "no medium and no text in the row")
    return parts


def _interleaved(media: Sequence[Media | None], texts: Sequence[Any]) -> list[Media | Text]:
    """A page as OBELICS has it: at each place a medium or a text."""
    parts: list[Media | Text] = []
    for medium, text in zip(media, texts, strict=True):
        if medium is not None:
            parts.append(medium)
        if isinstance(text, str) and text:
            parts.append(Text(text=text, role="document"))
    if not parts:
        raise DataError("no_parts", "no medium and no text in the row")
    return parts


def messages(value: Any) -> list[dict[str, Any]] | None:
    """A conversation as a column has it, as a list of messages: a list of them, JSON of one, `datasets`' struct of
    lists, or The Cauldron's turns; None where there is none.

    >>> messages({"from": ["human", "gpt"], "value": ["Hi", "Ho"]})
    [{'from': 'human', 'value': 'Hi'}, {'from': 'gpt', 'value': 'Ho'}]
    >>> messages([{"user": "Hi", "assistant": "Ho", "source": "x"}])
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Ho'}]
    """
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError("bad_record", f"its conversation is no JSON: {error}") from error
    if isinstance(value, dict):
        columns = {name: of for name, of in value.items() if isinstance(of, list)}
        if len({len(of) for of in columns.values()}) != 1:
            raise DataError("bad_record", "its conversation is neither a list nor lists of one length")
        value = [dict(zip(columns, turn, strict=True)) for turn in zip(*columns.values(), strict=True)]
    if not isinstance(value, list):
        return None
    read: list[dict[str, Any]] = []
    for message in value:
        if isinstance(message, dict) and "user" in message and "assistant" in message:
            read += [{"role": role, "content": message[role]} for role in ("user", "assistant") if message[role]]
        else:
            read.append(_without_nulls(message))
    return read


def _without_nulls(message: Any) -> Any:
    """A struct of Arrow has every field that any message of the column has."""
    if isinstance(message, dict):
        return {name: _without_nulls(value) for name, value in message.items() if value is not None}
    return [_without_nulls(value) for value in message] if isinstance(message, list) else message


def _meta(table: pa.Table, at: int, told: Columns) -> dict[str, Any]:
    used = {*told.media, *(name for name, _ in told.texts), told.talk, told.key}
    meta: dict[str, Any] = {}
    for position, field in enumerate(table.schema):
        if field.name not in used and _is_plain(field.type):
            meta[field.name] = json_value(_plain(table.column(position)[at], field.name))
    return meta


def _value(table: pa.Table, column: str, at: int) -> Any:
    return _plain(table.column(column)[at], column)


def _plain(scalar: pa.Scalar, column: str) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:  # bytes that are no UTF-8, times out of range
        raise DataError("bad_record", f"{column}: {error}") from error


def _inline(kind: Any, data: bytes, **facts: Any) -> Part:
    return Part(name="", kind=kind, offset=0, size=0, crc32c=int(crc32c.crc32c(data)), inline=data, **facts)


def _is_plain(kind: pa.DataType) -> bool:
    return bool(is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
