"""Rows of others' tables as samples: their media, their texts or conversation in the order of tokens, their meta."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from mmdata.errors import DataError
from mmdata.shards.rows import ITEMS, offset_of, value_bytes
from mmdata.sources import _messages
from mmdata.sources._columns import Columns, is_string
from mmdata.sources._members import odd
from mmdata.sources._tables import json_value, printable
from mmdata.types import Media, Text

URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A medium in a row: its offset as `offset_of` counts it, its bytes, and the path or URL that it has; without
    bytes, these are to be had there."""

    offset: int
    data: bytes | None = field(repr=False)
    address: str | None = None


Members = dict[str, Member]
Names = dict[str, list[str | None]]


def key_of(value: Any) -> str:
    if value is None or value == "":
        raise DataError("no_key", "its key column is empty")
    key = printable(str(value))
    if wrong := odd(key):
        raise DataError("member_name", wrong)
    return key


def members(table: pa.Table, at: int, row: int, told: Columns, *, addresses: bool = False) -> tuple[Names, Members]:
    """The media of a row: by column the names of its items in their order (None where an item of a list is null), by
    name their offset and bytes. A null is no medium; an address or empty bytes are not what a medium should be."""
    found: Members = {}
    names: Names = {}
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
            data = value_bytes(value)
            address = _address(value)
            if (data is None or not len(data)) and not (addresses and address):
                raise _without_bytes(column, value)
            if item >= ITEMS:
                raise DataError("too_many_media", f"{column}: a list of {len(items):,}, {ITEMS:,} are the most")
            name = f"{column}.{item}" if listed else column
            offset = offset_of(row, table.schema.names.index(column), item)
            found[name] = Member(offset=offset, data=None if data is None else bytes(data), address=address)
            names[column].append(name)
    return names, found


def _is_empty(value: pa.Scalar) -> bool:
    """`datasets` may write a struct of nulls where it has nothing."""
    return isinstance(value, pa.StructScalar) and not any(member.is_valid for member in value.values())


def _address(value: pa.Scalar) -> str | None:
    """Where a value says that its medium is, or was."""
    if isinstance(value, pa.DictionaryScalar | pa.ExtensionScalar):
        value = value.value
    if isinstance(value, pa.StructScalar):
        value = value["path"] if value.type.get_field_index("path") >= 0 else None
    if value is None or not value.is_valid or not is_string(value.type):
        return None
    return str(_plain(value, "path")) or None


def _without_bytes(column: str, value: pa.Scalar) -> DataError:
    path = _address(value)
    if path is None:
        return DataError("no_bytes", f"{column}: no bytes")
    if URL.match(path):
        return DataError(
            "url_without_bytes", f"{column}: {printable(path)} is an address; fetch it with `python -m mmdata.build`"
        )
    return DataError(
        "path_without_bytes", f"{column}: {printable(path)} is a path; the file itself is not in the table"
    )


def parts(table: pa.Table, at: int, told: Columns, names: Names, members: Members) -> Sequence[Media | Text]:
    def media(column: str, name: str) -> Media:
        return Media(kind=told.media[column], uri=name, data=members[name].data)

    there = {column: [name for name in of if name is not None] for column, of in names.items()}
    talk = None if told.talk is None else messages(value_of(table, told.talk, at))
    texts = [(value_of(table, column, at), role) for column, role in _texts_of(told, talk)]
    if talk is None and any(role for _, role in told.texts):
        each = [(said, role) for text, role in texts for said in (text if isinstance(text, list) else [text])]
        talk = [{"role": role or "user", "content": str(text)} for text, role in each if text not in (None, "")]
    if talk:
        read = _messages.parts(there, talk, told.media)
        for part in read:
            if isinstance(part, Media) and part.uri not in members:
                raise DataError("bad_record", f"its conversation names {part.uri or 'bytes of its own'}, not a column")
        return [replace(part, data=members[part.uri or ""].data) if isinstance(part, Media) else part for part in read]
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


def messages(value: Any) -> list[Any] | None:
    """A conversation as a column has it, as a list of messages; None where there is none."""
    found = _messages.listed(value)
    return None if found is None else [_without_nulls(message) for message in found]


def _without_nulls(message: Any) -> Any:
    """A struct of Arrow has every field that any message of the column has."""
    if isinstance(message, dict):
        return {name: _without_nulls(value) for name, value in message.items() if value is not None}
    return [_without_nulls(value) for value in message] if isinstance(message, list) else message


def meta_of(table: pa.Table, at: int, told: Columns) -> dict[str, Any]:
    talk = messages(value_of(table, told.talk, at)) if told.talk and told.caption else None
    used = {*told.media, *(name for name, _ in _texts_of(told, talk)), told.talk, told.key}
    meta: dict[str, Any] = {}
    for position, column in enumerate(table.schema):
        if column.name not in used and _is_plain(column.type):
            meta[column.name] = json_value(_plain(table.column(position)[at], column.name))
    return meta


def _texts_of(told: Columns, talk: Sequence[Any] | None) -> Sequence[tuple[str, str]]:
    """The columns of texts of a row: of one without a conversation its caption, which else is meta."""
    return told.texts if talk or told.caption is None else ((told.caption, ""),)


def value_of(table: pa.Table, column: str, at: int) -> Any:
    return _plain(table.column(column)[at], column)


def _plain(scalar: pa.Scalar, column: str) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:  # bytes that are no UTF-8, times out of range
        raise DataError("bad_record", f"{column}: {error}") from error


def _is_plain(kind: pa.DataType) -> bool:
    return bool(is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
