"""Adopting a Parquet or Arrow file of media: its rows as rows of our index, where they lie, and a fate for each."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import crc32c
import pyarrow as pa

from mmdata.decode.work import Work
from mmdata.engine import adopt, commit
from mmdata.engine.adopt import Unit
from mmdata.errors import DataError, SpecError
from mmdata.ledger import LedgerRow
from mmdata.shards import rows as tables
from mmdata.shards.access import open_source
from mmdata.shards.index import FOREIGN, IndexRow, Part
from mmdata.shards.rows import RowSource
from mmdata.shards.table import ShardEntry
from mmdata.sources import _messages
from mmdata.sources._tables import json_value
from mmdata.steps.probe import Probe
from mmdata.types import Drop, Media, MediaKind, Origin, Sample, Text

CAPTIONS = ("text", "caption", "TEXT", "txt", "captions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the columns of a table hold: kinds of media by column, the column of the text, that of conversations."""

    media: dict[str, MediaKind]
    text: str | None
    talk: str | None


def columns(schema: pa.Schema, uri: str) -> Columns:
    """Told by names and types. Raises SpecError, which lists the columns, where none holds media, texts or talk."""
    kinds = _messages.MEDIA_KEYS
    media = {name: kinds[name] for name in schema.names if name in kinds and _holds_bytes(schema.field(name).type)}
    text = next((name for name in CAPTIONS if name in schema.names and _is_text(schema.field(name).type)), None)
    talk = next((name for name in _messages.KEYS if name in schema.names), None)
    if any(schema.names.index(name) >= tables.COLUMNS for name in media):
        raise SpecError(f"{uri}: media lie behind column {tables.COLUMNS}; write them as the first columns")
    if not media and text is None and talk is None:
        listed = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise SpecError(f"{uri}: no column of media (image, audio, video), text or conversations among {listed}")
    return Columns(media=media, text=text, talk=talk)


def adopt_rows(
    folder: Any, unit: Unit, *, verify: Literal["full", "header"], keys: dict[str, str], pool: ThreadPoolExecutor
) -> tuple[ShardEntry, list[LedgerRow]]:
    """As `adopt.adopt`, of a table. The key of a row is the name of its file and its number."""
    plain = open_source(unit.uri)
    source = RowSource(unit.uri)
    told = columns(source.schema, unit.name)
    probe = Probe(
        verify=verify, orientation="keep", cmyk="reject", sixteen_bit="reject", animated="reject", digest="sha256"
    )
    stem = PurePosixPath(unit.name.partition("?")[0]).stem
    made_rows: list[IndexRow] = []
    fates: list[LedgerRow] = []
    try:
        if int(source.firsts[-1]) > tables.MOST_ROWS:
            raise DataError("too_many_rows", f"{unit.name}: more than {tables.MOST_ROWS:,} rows in one file")
        for number in range(len(source.firsts) - 1):
            group, first = source.group(number), int(source.firsts[number])
            made_of = pool.map(lambda at: _row(group, at, first, stem, unit, told, probe), range(group.num_rows))  # noqa: B023 taken before `group` changes
            for at, made in enumerate(made_of):
                key = f"{stem}/{first + at:09d}"
                if isinstance(made, IndexRow) and key in keys:
                    detail = f"a sample of {keys[key]} has the same key"
                    made = Drop(reason="duplicate_key", detail=detail, state="duplicate", of=key)
                if isinstance(made, IndexRow):
                    keys[key] = unit.name
                    made_rows.append(replace(made, row=unit.input_first + len(fates)))
                number_of = unit.input_first + len(fates)
                fates.append(adopt._fate(key, unit, number_of, len(fates), made, len(made_rows) - 1))
    except DataError as error:
        drop = Drop(reason=error.reason, detail=error.detail, state="failed_permanent")
        fates.append(adopt._fate("", unit, unit.input_first + len(fates), len(fates), drop, 0))
    finally:
        source.close()
    entry = adopt._write(folder, unit, made_rows, fates, plain.size, adopt._sha256(plain))
    plain.close()
    return entry, fates


def _row(table: pa.Table, at: int, first: int, stem: str, unit: Unit, told: Columns, probe: Probe) -> IndexRow | Drop:
    row, key = first + at, f"{stem}/{first + at:09d}"
    try:
        members: dict[str, tuple[int, bytes]] = {}
        names: dict[str, list[str]] = {}
        for column in told.media:
            value = table.column(column)[at]
            items = len(value.values) if isinstance(value, pa.ListScalar) and value.is_valid else 1
            for item in range(items):
                data = tables.value_bytes(value, item)
                if data is None or not len(data):
                    raise DataError("no_bytes", f"{column}: null, or a path without bytes")
                if len(data) > tables.LARGEST or item >= tables.ITEMS:
                    raise DataError("too_large", f"{column}: {len(data):,} bytes, item {item}")
                name = f"{column}.{item}" if isinstance(value, pa.ListScalar) else column
                offset = tables.offset_of(row, table.schema.names.index(column), item)
                members[name] = (offset, bytes(data))
                names.setdefault(column, []).append(name)
        parts = _parts(table, at, told, members, names)
        media = tuple(part for part in parts if isinstance(part, Media))
        sample = Sample(key=key, parts=media, origin=Origin(uri=unit.name, row=row))
        probed = probe.apply(sample, Work(max_pixels=probe.max_pixels))
        if isinstance(probed, Drop):
            return probed
    except DataError as error:
        return Drop(reason=error.reason, detail=error.detail, state="failed_permanent")
    facts, listed = iter(probed.media), []
    for part in parts:
        if isinstance(part, Media):
            offset, held = members[part.uri or ""]
            own = commit._media_facts(replace(next(facts), uri=None))
            crc = int(crc32c.crc32c(held))
            listed.append(Part(name=part.uri or "", kind=part.kind, offset=offset, size=len(held), crc32c=crc, **own))
        else:
            listed.append(_inline("text", part.text.encode(), role=part.role, train=part.train))
    others = [n for n in table.schema.names if n not in told.media and n not in (told.text, told.talk)]
    meta = {
        name: json_value(table.column(name)[at].as_py()) for name in others if _is_plain(table.schema.field(name).type)
    }
    if meta:
        listed.append(_inline("meta", json.dumps(meta).encode(), format=FOREIGN))
    return IndexRow(key=key, row=row, origin=unit.name, origin_row=row, parts=tuple(listed))


def _parts(
    table: pa.Table, at: int, told: Columns, members: dict[str, tuple[int, bytes]], names: dict[str, list[str]]
) -> list[Media | Text]:
    talk = table.column(told.talk)[at].as_py() if told.talk else None
    if isinstance(talk, list):
        read = _messages.parts(names, talk, told.media)
        for part in read:
            if isinstance(part, Media) and part.uri not in members:
                raise DataError("bad_record", f"its conversation names {part.uri or 'bytes of its own'}, not a column")
        return [replace(part, data=members[part.uri or ""][1]) if isinstance(part, Media) else part for part in read]
    parts: list[Media | Text] = [
        Media(kind=told.media[column], uri=name, data=members[name][1]) for column, of in names.items() for name in of
    ]
    text = table.column(told.text)[at].as_py() if told.text else None
    if text is not None:
        parts.append(Text(text=text))
    if not parts:
        raise DataError("no_parts", "no medium and no text in the row")
    return parts


def _inline(kind: Any, data: bytes, **facts: Any) -> Part:
    return Part(name="", kind=kind, offset=0, size=0, crc32c=int(crc32c.crc32c(data)), inline=data, **facts)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_plain(kind: pa.DataType) -> bool:
    return bool(_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
