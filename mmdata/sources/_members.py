"""Members of others' tars as samples: which of them belong together, and which is a medium, a text or meta."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mmdata.errors import DataError
from mmdata.shards.foreign_tar import ForeignMember
from mmdata.sources import _messages
from mmdata.sources._energon import FieldMap
from mmdata.types import Drop, Media, MediaKind, Text

# fmt: off
KINDS: dict[str, MediaKind] = {
    **dict.fromkeys((
        "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "jp2", "j2k",
        "jpf", "jpx",
    ), "image"),
    **dict.fromkeys((
        "mp4", "m4v", "mov", "qt", "3gp", "3g2", "webm", "mkv", "avi", "flv", "f4v", "ts", "mts", "m2ts", "mpg", "mpeg",
        "mpe", "m1v", "m2v", "vob", "wmv", "asf", "ogv",
    ), "video"),
    **dict.fromkeys((
        "wav", "flac", "mp3", "mp2", "ogg", "oga", "opus", "m4a", "m4b", "aac", "weba", "mka", "aif", "aiff", "aifc",
        "au", "snd", "caf", "amr", "sph", "w64", "wma",
    ), "audio"),
}
"""Of a member, by the last part of its extension."""
UNREAD = frozenset((
    "heic", "heif", "hif", "jxl", "svg", "svgz", "ico", "psd", "psb", "exr", "hdr", "tga", "dds", "pcx", "ppm", "pgm",
    "pbm", "pnm", "eps", "wmf", "emf", "xcf", "dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "rw2", "rm", "rmvb",
    "swf", "ape", "wv", "tta", "ac3", "dts",
))
# fmt: on
"""Media that nothing here reads: a sample without any other has lost its medium."""
TEXTS = ("txt", "caption", "text")
CAPTIONS = ("caption", "text", "TEXT")
LONGEST_KEY = 200


@dataclass(slots=True)
class Group:
    """The members of one sample, by their extension, in their order; or why they are none."""

    key: str
    members: dict[str, ForeignMember] = field(default_factory=dict)
    drop: Drop | None = None


def groups(members: Iterable[ForeignMember]) -> Iterator[Group]:
    """Neighbours of one key, as webdataset groups them: the key is the path up to the first dot of the file's name."""
    group: Group | None = None
    for member in members:
        place, slash, base = member.name.rpartition("/")
        stem, dot, extension = base.partition(".")
        key = (place + slash + stem).removeprefix("./")
        if not stem or not dot or base.startswith("__"):
            continue  # what webdataset passes over, too
        if group is None or key != group.key:
            if group is not None:
                yield group
            group = Group(key)
        extension = extension.lower()
        if extension in group.members:
            group.drop = Drop(reason="duplicate_member", detail=f"two members {base}", state="failed_permanent")
        group.members[extension] = member
    if group is not None:
        yield group


def odd(key: str) -> str:
    """What is wrong with a key, which becomes part of file names."""
    if len(key) > LONGEST_KEY:
        return f"{len(key)} characters, {LONGEST_KEY} are the most"
    if not key.isprintable() or "\\" in key:
        return f"{key!r} holds what is not printable"
    if key.startswith("/") or ".." in key.split("/"):
        return f"{key!r} leads out of its folder"
    return ""


def parts(group: Group) -> tuple[list[Media | Text | str], bool]:
    """Parts in the order of tokens, and whether there is meta. A medium's `uri` is the extension of its member; a text
    that is a member is its extension, one from inside a JSON member a Text. Raises DataError: `no_parts`, `bad_record`,
    `text_not_utf8`, `unsupported_format`."""
    listed: dict[MediaKind, list[str]] = {}
    for extension in group.members:
        if kind := KINDS.get(extension.rpartition(".")[2]):
            listed.setdefault(kind, []).append(extension)
    if not listed and (unread := [name for name in group.members if name.rpartition(".")[2] in UNREAD]):
        raise DataError("unsupported_format", ", ".join(unread))
    value = meta_of(group)
    meta = isinstance(value, dict)
    talk, wrong = _talk(value)
    if talk is not None:
        names: dict[str, Any] = {kind: list(extensions) for kind, extensions in listed.items()}
        found = _messages.parts(names, talk, {kind: kind for kind in listed})
        return [_named(group, part) for part in found], meta
    media: list[Media | Text | str] = [
        Media(kind=kind, uri=extension, data=group.members[extension].data)
        for kind, extensions in listed.items()
        for extension in extensions
    ]
    texts: list[Media | Text | str] = []
    for extension, member in group.members.items():
        if extension.rpartition(".")[2] in TEXTS:
            _check_text(extension, member.data or b"")
            texts.append(extension)
    if not texts and meta:
        caption = next((value[name] for name in CAPTIONS if isinstance(value.get(name), str)), None)
        texts = [] if caption is None else [Text(text=caption)]
    if wrong is not None and not texts:
        raise wrong
    if not media and not texts:
        raise DataError("no_parts", f"no medium or text among {', '.join(group.members)}")
    return media + texts, meta


def mapped(group: Group, fields: FieldMap) -> tuple[list[Media | Text | str], bool]:
    """`parts` as an Energon folder says which member is what. Raises DataError as `FieldMap.parts` does."""
    found = fields.parts({extension: member.data for extension, member in group.members.items()})
    return list(found), isinstance(meta_of(group), dict)


def meta_of(group: Group) -> Any:
    """What its JSON member holds; None where it has none."""
    if "json" not in group.members:
        return None
    try:
        return json.loads(group.members["json"].data or b"")
    except (ValueError, RecursionError) as error:
        raise DataError("bad_record", f"its json: {error}") from error


def _talk(value: Any) -> tuple[list[Any] | None, DataError | None]:
    """The conversation of a JSON member, or what is wrong with what may be one."""
    if isinstance(value, list):
        return (_messages.listed(value) if _messages.is_talk(value) else None), None
    if not isinstance(value, dict):
        return None, None
    try:
        return _messages.find(_messages.opened(value)), None
    except DataError as error:
        return None, error


def _check_text(extension: str, data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise DataError("text_not_utf8", f"{extension}: {error}") from error


def _named(group: Group, part: Text | Media) -> Text | Media:
    if isinstance(part, Text):
        return part
    if part.uri not in group.members:
        raise DataError("bad_record", f"its conversation names {part.uri or 'bytes of its own'}, not a member")
    return replace(part, data=group.members[part.uri].data)
