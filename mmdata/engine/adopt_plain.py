"""Samples as most tars hold them, told by the first bytes of each member and put into an index without a detour."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import crc32c

from mmdata.decode.glance import Glance, glance
from mmdata.ledger import Fates
from mmdata.shards.access import Source
from mmdata.shards.foreign_tar import ForeignMember, TarPass
from mmdata.shards.index import FOREIGN, Part
from mmdata.shards.index_columns import IndexColumns
from mmdata.sources import _messages
from mmdata.sources._members import CAPTIONS, KINDS, LONGEST_KEY, TEXTS, Group, groups

HEADS = (1 << 10, 1 << 16)
"""Bytes of a picture that are looked at first, and where they do not say what it is; then all of it is read."""
_KEY = re.compile(r"[\w=,+@~-][\w=,+@~/-]*", re.ASCII)
"""Keys that nothing can be wrong with but their length."""
_NO_PIXELS = (None, None)
_BARE, _CAPTIONED = 1, 2
"""What a JSON object may be to a sample without a conversation: meta alone, or where its caption may be, too."""


class Plain(NamedTuple):
    """Of samples whose members have the same extensions: which of them are pictures, which texts, and the JSON object,
    by their place among the members; -1 where there is none."""

    pictures: tuple[int, ...]
    texts: tuple[int, ...]
    meta: int


def plan(extensions: tuple[str, ...]) -> Plain | None:
    """How samples of these members are read where each is what its extension says; None where that takes more.

    >>> plan(("jpg", "txt", "json"))
    Plain(pictures=(0,), texts=(1,), meta=2)
    >>> plan(("mp4", "txt"))
    """
    kinds = [_kind(extension) for extension in extensions]
    pictures = tuple(at for at, kind in enumerate(kinds) if kind == "image")
    texts = tuple(at for at, kind in enumerate(kinds) if kind == "text")
    if len(set(extensions)) < len(extensions) or "timed" in kinds or not (pictures or texts):
        return None
    return Plain(pictures, texts, kinds.index("json") if "json" in kinds else -1)


def _kind(extension: str) -> str:
    last = extension.rpartition(".")[2]
    if extension == "json":
        return "json"
    if last in KINDS:
        return "image" if KINDS[last] == "image" else "timed"
    return "text" if last in TEXTS else "other"


class Reader:
    """Members of a tar as rows of an index, with their fates.

    Of a sample that is plain, `refused` is asked whether it has a fate already, by its number in the tar and its key.
    One that is not goes to `other` as a group with its bytes, which decides about it.
    """

    def __init__(
        self,
        tar: TarPass,
        source: Source,
        columns: IndexColumns,
        fates: Fates,
        *,
        input_first: int,
        max_pixels: int,
        refused: Callable[[int, str], bool],
        other: Callable[[int, Group], None],
    ) -> None:
        self._tar = tar
        self._source = source
        self._columns = columns
        self._fates = fates
        self._input_first = input_first
        self._max_pixels = max_pixels
        self._refused = refused
        self._other = other
        self._plans: dict[tuple[str, ...], Plain | None] = {}
        self._shapes: dict[tuple[str, str, str], int] = {}
        self._checksum: Callable[[Any], int] = crc32c.crc32c if columns.sums else _no_sum

    def run(self) -> None:
        """All samples. Raises DataError where the tar is damaged; samples before are taken then."""
        kinds: dict[str, str] = {}
        number, key = 0, None
        extensions: list[str] = []
        held: list[ForeignMember] = []
        facts: list[Any] = []
        peek = self._tar.peek
        for member in self._tar.members():
            name, offset, size, data = member
            place, slash, base = name.rpartition("/")
            stem, dot, extension = base.partition(".")
            if not stem or not dot or (stem[0] == "_" and base.startswith("__")):
                continue
            own = (place + slash + stem).removeprefix("./") if slash else stem
            if own != key:
                if key is not None:
                    self._sample(number, key, tuple(extensions), held, facts)
                    number += 1
                key, extensions, held, facts = own, [], [], []
            extension = extension.lower()
            kind = kinds.get(extension) or kinds.setdefault(extension, _kind(extension))
            if kind == "image":
                fact: Any = self._glance(offset, size, data)
            elif kind == "text":
                fact = _is_text(peek(offset, size) if data is None else data)
            elif kind == "json":
                fact = _object(peek(offset, size) if data is None else data)
            else:
                fact = True
            extensions.append(extension)
            held.append(member)
            facts.append(fact)
        if key is not None:
            self._sample(number, key, tuple(extensions), held, facts)

    def _glance(self, offset: int, size: int, data: bytes | None) -> Glance | None:
        if data is not None:
            return glance(data, max_pixels=self._max_pixels)
        for head in HEADS:
            if head < size:
                seen = glance(first := self._tar.peek(offset, head), max_pixels=self._max_pixels, whole=False)
                if seen is not None:
                    return seen
                if first[:2] != b"\xff\xd8":
                    break
        return glance(self._tar.peek(offset, size), max_pixels=self._max_pixels)

    def _sample(
        self, number: int, key: str, extensions: tuple[str, ...], held: list[ForeignMember], facts: list[Any]
    ) -> None:
        try:
            plain = self._plans[extensions]
        except KeyError:
            plain = self._plans[extensions] = plan(extensions)
        if (
            plain is None
            or not all(facts)
            or (not plain.texts and plain.meta >= 0 and facts[plain.meta] == _CAPTIONED)
            or len(key) > LONGEST_KEY
            or not _KEY.fullmatch(key)
        ):
            (group,) = groups(self._whole(member) for member in held)
            self._other(number, group)
            return
        if self._refused(number, key):
            return
        shapes, parts, pixels = self._shapes, [], []
        checksum = self._checksum
        for at in plain.pictures:
            _, offset, size, data = held[at]
            format, height, width, mode = facts[at]
            shape = shapes.get((extensions[at], format, mode))
            if shape is None:
                shape = self._shape(extensions[at], format, mode)
            parts.append((shape, offset, size, checksum(data)))
            pixels.append((height, width))
        for at in plain.texts:
            _, offset, size, data = held[at]
            shape = shapes.get((extensions[at], "", ""))
            if shape is None:
                shape = self._shape(extensions[at], "", "")
            parts.append((shape, offset, size, checksum(data)))
        if plain.meta >= 0:
            _, offset, size, data = held[plain.meta]
            shape = shapes.get(("json", "", ""))
            if shape is None:
                shape = self._shape("json", "", "")
            parts.append((shape, offset, size, checksum(data)))
        self._columns.append(key, self._input_first + number, number, parts, pixels)
        self._fates.kept(key, len(self._columns) - 1, pixels[0] if len(pixels) == 1 else _NO_PIXELS)

    def _whole(self, member: ForeignMember) -> ForeignMember:
        return (
            member if member.data is not None else member._replace(data=self._source.read(member.offset, member.size))
        )

    def _shape(self, extension: str, format: str, mode: str) -> int:
        kind: Any = {"": "meta" if extension == "json" else "text"}.get(format, "image")
        own: dict[str, Any] = {
            "image": {"format": format, "height": 0, "width": 0, "mode": mode, "frames": 1, "verified": "header"},
            "text": {"role": "caption", "train": True},
            "meta": {"format": FOREIGN},
        }[kind]
        number = self._columns.shape(Part(extension, kind, 0, 0, 0, **own))
        return self._shapes.setdefault((extension, format, mode), number)


def nothing(name: str, size: int) -> bool:
    """What a pass takes of which only the first bytes of each member are looked at: no member."""
    return False


def _no_sum(data: bytes | None) -> int:
    return 0


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _object(data: bytes) -> int:
    """What a JSON member is to its sample; 0 where it takes more to say."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return 0
    if not isinstance(value, dict) or not value.keys().isdisjoint(_messages.KEYS):
        return 0
    return _BARE if value.keys().isdisjoint(CAPTIONS) else _CAPTIONED
