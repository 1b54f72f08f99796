"""What the columns of a table mean: told by options, by what `datasets` wrote into the schema, or by their names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from mmdata.errors import SpecError
from mmdata.sources import _messages
from mmdata.sources._naming import ROLES, Naming
from mmdata.types import MediaKind

CAPTIONS = ("text", "caption", "TEXT", "txt", "captions")
TURNS = "texts"
"""Of The Cauldron and OBELICS: a list of {user, assistant}, or texts between the media."""
ADDRESSES: dict[str, MediaKind] = {"image_url": "image", "video_url": "video", "audio_url": "audio"}
_FEATURES: dict[str, MediaKind] = {"Image": "image", "Audio": "audio", "Video": "video"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of one table: kinds of media by column, texts with their roles ("" where none is said), the
    conversation, the caption of rows that have none, the key. Media come in this order."""

    media: dict[str, MediaKind]
    texts: tuple[tuple[str, str], ...]
    talk: str | None
    key: str | None
    caption: str | None = None


def columns(schema: pa.Schema, uri: str, naming: Naming) -> Columns:
    """Raises SpecError, which lists the columns, for options that name none, and where none holds media, text or
    talk."""
    listed = ", ".join(f"{field.name} ({field.type})" for field in schema)
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise SpecError(f"{uri}: more than one column is called {', '.join(twice)}")
    wanted = [*naming.image, *naming.audio, *naming.video, *(_role(text)[0] for text in naming.text)]
    wanted += [name for name in (naming.conversations, naming.key) if name]
    if missing := [name for name in wanted if name not in schema.names]:
        raise SpecError(f"{uri}: no column {', '.join(missing)} among {listed}")
    media = _media(schema, uri, naming, listed)
    talk = naming.conversations or next((name for name in _messages.KEYS if _is_talk(schema, name)), None)
    texts = tuple(_role(text) for text in naming.text)
    caption = None
    if not texts:
        other = {talk, naming.key, *media}
        caption = next((name for name in CAPTIONS if name not in other and _is_text(schema, name)), None)
        if talk is None and TURNS in schema.names and _is_list(kind := schema.field(TURNS).type):
            talk, texts = (TURNS, ()) if pa.types.is_struct(kind.value_type) else (None, ((TURNS, ""),))
        elif talk is None and caption is not None:
            texts = ((caption, ""),)
        caption = caption if talk is not None else None
    if naming.key and not any(
        test(schema.field(naming.key).type)
        for test in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    ):
        raise SpecError(f"{uri}: key column {naming.key} holds {schema.field(naming.key).type}, not texts or integers")
    from mmdata.shards import rows  # tables are for few

    if any(schema.names.index(name) >= rows.COLUMNS for name in media):
        raise SpecError(f"{uri}: media lie behind column {rows.COLUMNS:,}; write them as the first columns")
    if not media and not texts and talk is None:
        raise SpecError(
            f"{uri}: no column of media (image, audio, video), text or conversations among {listed}; "
            "say what they are: --image-column, --text-column, ..."
        )
    return Columns(media=media, texts=texts, talk=talk, key=naming.key, caption=caption)


def _media(schema: pa.Schema, uri: str, naming: Naming, listed: str) -> dict[str, MediaKind]:
    """Columns that hold media, or should: of one that holds addresses each row says so."""
    said: dict[str, MediaKind] = {
        **dict.fromkeys(naming.image, "image"),
        **dict.fromkeys(naming.audio, "audio"),
        **dict.fromkeys(naming.video, "video"),
    }
    if len(said) < len(naming.image) + len(naming.audio) + len(naming.video):
        raise SpecError(f"{uri}: a column is named twice among those of images, audio and videos")
    if wrong := [name for name in said if not _may_hold_media(schema.field(name).type)]:
        raise SpecError(f"{uri}: column {wrong[0]} cannot hold media: {listed}")
    typed = dict(_typed(schema))
    named = {**_messages.MEDIA_KEYS, **ADDRESSES}
    found: dict[str, MediaKind] = {}
    for name in schema.names:
        kind = said.get(name) or typed.get(name)
        if kind is None and name in named and _may_hold_media(schema.field(name).type):
            kind = named[name]
        # Whoever says which columns are the images says that others are none.
        if kind and (name in said or kind not in set(said.values())) and name not in (naming.conversations, naming.key):
            found[name] = kind
    ordered = [name for name in said if name in found] + [name for name in found if name not in said]
    texts = [_role(text)[0] for text in naming.text]
    return {name: found[name] for name in ordered if name not in texts}


def _typed(schema: pa.Schema) -> Iterator[tuple[str, MediaKind]]:
    """Columns that `datasets` says are media, or lists of them, in its own metadata of the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        items = list(features.items())
    except (KeyError, ValueError, TypeError, AttributeError):
        return
    for name, feature in items:
        if isinstance(feature, list) and len(feature) == 1:
            feature = feature[0]
        elif isinstance(feature, dict) and feature.get("_type") in ("List", "LargeList", "Sequence"):
            feature = feature.get("feature")
        kind = _FEATURES.get(str(feature.get("_type"))) if isinstance(feature, dict) else None
        if kind and name in schema.names and _may_hold_media(schema.field(name).type):
            yield name, kind


def _role(text: str) -> tuple[str, str]:
    """A column and the role of its text.

    >>> _role("question:user"), _role("text"), _role("odd:name")
    (('question', 'user'), ('text', ''), ('odd:name', ''))
    """
    name, _, role = text.rpartition(":")
    return (name, role) if name and role in ROLES else (text, "")


def _may_hold_media(kind: pa.DataType) -> bool:
    """Bytes, `struct{bytes, path}`, addresses, or lists of one of them."""
    if pa.types.is_dictionary(kind) or _is_list(kind):
        return _may_hold_media(kind.value_type)
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    from mmdata.shards import rows

    return rows.is_binary(kind) or is_string(kind)


def _is_talk(schema: pa.Schema, name: str) -> bool:
    """A list of messages, `datasets`' struct of lists, or JSON of one."""
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    return _is_list(kind) or pa.types.is_struct(kind) or is_string(kind)


def _is_text(schema: pa.Schema, name: str) -> bool:
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    return is_string(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_string(kind: pa.DataType) -> bool:
    """Whether values of a type are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
