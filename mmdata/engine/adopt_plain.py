"""Samples as most tars hold them, told by the first bytes of each member and put into an index without a detour."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mmdata.checksum import crc32c
from mmdata.decode.glance import Glance, glance, glances
from mmdata.ledger import Fates
from mmdata.native.calls import calls
from mmdata.shards.access import Source
from mmdata.shards.foreign_tar import BLOCK, ForeignMember, TarPass
from mmdata.shards.index import FOREIGN, Part
from mmdata.shards.index_columns import IndexColumns
from mmdata.shards.plain_tar import KEY, Looks, alike
from mmdata.sources import _messages
from mmdata.sources._members import CAPTIONS, KINDS, LONGEST_KEY, TEXTS, UNREAD, Group, groups

HEADS = (1 << 10, 1 << 16)
"""Bytes of a picture that are looked at first, and where they do not say what it is; then all of it is read."""
TOGETHER = 512
"""Samples that are looked at together."""
_MODES = {1: "L", 3: "RGB"}
"""Of baseline JPEGs, by their components."""
_BARE, _CAPTIONED = 1, 2
"""What a JSON object may be to a sample without a conversation: meta alone, or where its caption may be, too."""


_NAMES = tuple(name.encode() for name in (*CAPTIONS, *_messages.KEYS))
_KINDS_OF = [_BARE, *[_CAPTIONED] * (2 ** len(CAPTIONS) - 1), *[0] * (2 ** len(_NAMES) - 2 ** len(CAPTIONS)), -1]
"""What an object is that has these of the `_NAMES`, by the sum of 1 << place of each; of -1 nothing is said."""
_KINDS_ARRAY = np.array(_KINDS_OF, np.int8)


class Plain(NamedTuple):
    """Of samples whose members have the same extensions: which of them are pictures, which texts, and the JSON object,
    by their place among the members; -1 where there is none."""

    pictures: tuple[int, ...]
    texts: tuple[int, ...]
    meta: int

    def looks(self, members: int, max_pixels: int) -> Looks:
        """What is asked of each of so many members."""
        kinds = bytearray(b"-" * members)
        for kind, places in (("p", self.pictures), ("t", self.texts), ("m", (self.meta,) if self.meta >= 0 else ())):
            for place in places:
                kinds[place] = ord(kind)
        return Looks(bytes(kinds), max_pixels, _NAMES)


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
    if "unread" in kinds and not pictures:
        return None
    return Plain(pictures, texts, kinds.index("json") if "json" in kinds else -1)


def _kind(extension: str) -> str:
    last = extension.rpartition(".")[2]
    if extension == "json":
        return "json"
    if last in KINDS:
        return "image" if KINDS[last] == "image" else "timed"
    if last in UNREAD:
        return "unread"
    return "text" if last in TEXTS else "other"


class Reader:
    """Members of a tar as rows of an index, with their fates.

    Of a sample that is plain, `refused` is asked whether it has a fate already, by its number in the tar and its key;
    of many together, of which the first has that number, `new` is, whether none has. One that is not plain goes to
    `other` as a group with its bytes, which decides about it.
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
        new: Callable[[int, list[str]], bool],
        other: Callable[[int, Group], None],
    ) -> None:
        self._tar = tar
        self._source = source
        self._columns = columns
        self._fates = fates
        self._input_first = input_first
        self._max_pixels = max_pixels
        self._refused = refused
        self._new = new
        self._other = other
        self._plans: dict[tuple[str, ...], Plain | None] = {}
        self._shapes: dict[tuple[str, str, str], int] = {}
        self._alike: tuple[str, ...] | None = None
        """Extensions of the sample before, if it was plain and many like it may be taken together: where none has a
        sum, and each needs nothing but its own members."""
        self._checksum: Callable[[Any], int] = crc32c if columns.sums else _no_sum

    def run(self) -> None:
        """All samples. Raises DataError where the tar is damaged; samples before are taken then."""
        kinds: dict[str, str] = {}
        number, key = 0, None
        tries = wait = 0  # samples since the last attempt to take many together, and before the next one
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
                    tries += 1
                    if self._alike is not None and tries >= wait:
                        taken = self._together(number, member)
                        number += taken
                        tries, wait = 0, 0 if taken else 2 * wait + 1
                        if taken:
                            key = None
                            continue
                key, extensions, held, facts = own, [], [], []
            extension = extension.lower()
            kind = kinds.get(extension) or kinds.setdefault(extension, _kind(extension))
            if kind == "image":
                fact: Any = self._glance(offset, size, data)
            elif kind == "text":
                fact = _is_text(peek(offset, size) if data is None else data)
            elif kind == "json":
                (fact,) = _objects([peek(offset, size) if data is None else data])
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
            or not KEY.fullmatch(key)
        ):
            (group,) = groups(self._whole(member) for member in held)
            self._alike = None
            self._other(number, group)
            return
        if self._refused(number, key):
            return
        parts, pixels = [], []
        checksum = self._checksum
        for at in plain.pictures:
            _, offset, size, data = held[at]
            format, height, width, mode = facts[at]
            shape = self._shape_of(extensions[at], format, mode)
            parts.append((shape, offset, size, checksum(data)))
            pixels.append((height, width))
        for at in plain.texts:
            _, offset, size, data = held[at]
            shape = self._shape_of(extensions[at], "", "")
            parts.append((shape, offset, size, checksum(data)))
        if plain.meta >= 0:
            _, offset, size, data = held[plain.meta]
            shape = self._shape_of("json", "", "")
            parts.append((shape, offset, size, checksum(data)))
        self._columns.append(key, self._input_first + number, number, parts, pixels)
        self._fates.kept(key, len(self._columns) - 1, *(pixels[0] if len(pixels) == 1 else ()))
        self._alike = extensions if not self._columns.sums and not self._tar.shared else None

    def _together(self, number: int, first: ForeignMember) -> int:
        """Take samples from the one on that begins with `first`, as long as they have members as the last one had; how
        many there were. The last of those that are looked at is left: what follows may belong to it."""
        extensions = self._alike or ()
        plain = self._plans[extensions]
        assert plain is not None
        looks = plain.looks(len(extensions), self._max_pixels)
        keys, offsets, sizes, heads, told = alike(self._source, first.offset - BLOCK, TOGETHER, extensions, looks)
        count = len(keys) - 1
        if count < 1:
            return 0
        left = [
            np.flatnonzero(told[:count, at, 2] == 0).tolist() for at in range(len(extensions))
        ]  # not told by a look
        pictures: list[tuple[np.ndarray, dict[int, Glance]]] = []  # what is seen, and where that takes more than a look
        for at in plain.pictures:
            seen, others = told[:count, at], dict[int, Glance]()
            if left[at]:
                seen = seen.copy()
                seen[left[at]] = glances([heads[at][place] or b"" for place in left[at]], max_pixels=self._max_pixels)
            for place in np.flatnonzero(seen[:, 2] == 0).tolist():
                other = self._glance(int(offsets[place, at]), int(sizes[place, at]), None)
                if other is None:
                    count = min(count, place)
                    break
                others[place] = other
            pictures.append((seen, others))
        for at in plain.texts:
            texts = self._bodies(left[at], heads[at], offsets[:, at], sizes[:, at])
            if not _is_text(b"\n".join(texts)):
                count = min(count, left[at][[_is_text(text) for text in texts].index(False)])
        if plain.meta >= 0:
            facts, places = _KINDS_ARRAY[told[: len(keys) - 1, plain.meta, 0]], left[plain.meta]
            facts[places] = _objects(
                self._bodies(places, heads[plain.meta], offsets[:, plain.meta], sizes[:, plain.meta])
            )
            wrong = facts == 0 if plain.texts else (facts == 0) | (facts == _CAPTIONED)
            if wrong.any():
                count = min(count, int(wrong.argmax()))
        keys = keys[:count]
        if count < 1 or not self._new(number, keys):
            return 0
        order = [*plain.pictures, *plain.texts, *([plain.meta] if plain.meta >= 0 else [])]
        parts = np.zeros((count, len(order), 4), np.int64)
        parts[:, :, 1], parts[:, :, 2] = offsets[:count, order], sizes[:count, order]
        pixels = np.zeros((count, len(pictures), 2), np.int32)
        for place, (at, (seen, others)) in enumerate(zip(plain.pictures, pictures, strict=True)):
            pixels[:, place] = seen[:count, :2]
            for components, mode in _MODES.items():
                if (those := seen[:count, 2] == components).any():
                    parts[those, place, 0] = self._shape_of(extensions[at], "jpeg", mode)
            for row, (format, height, width, mode) in others.items():
                if row < count:
                    pixels[row, place] = height, width
                    parts[row, place, 0] = self._shape_of(extensions[at], format, mode)
        for place, at in enumerate(order[len(pictures) :], len(pictures)):
            parts[:, place, 0] = self._shape_of(extensions[at], "", "")
        shard_row, begin = len(self._columns), self._input_first + number
        self._columns.extend(keys, begin, number, parts.reshape(-1, 4), pixels.reshape(-1, 2))
        heights, widths = pixels[:, 0].T.tolist() if len(pictures) == 1 else ([None] * count,) * 2
        self._fates.extend(keys, shard_row, heights, widths)
        self._tar.go(int(offsets[count, 0]) - BLOCK)
        return count

    def _bodies(
        self, places: list[int], heads: list[bytes | None], offsets: np.ndarray, sizes: np.ndarray
    ) -> list[bytes]:
        """All bytes of the members at these places, whose first ones are given."""
        found = []
        for place in places:
            head, size = heads[place] or b"", int(sizes[place])
            found.append(head if len(head) == size else self._source.read(int(offsets[place]), size))
        return found

    def _whole(self, member: ForeignMember) -> ForeignMember:
        return (
            member if member.data is not None else member._replace(data=self._source.read(member.offset, member.size))
        )

    def _shape_of(self, extension: str, format: str, mode: str) -> int:
        shape = self._shapes.get((extension, format, mode))
        return self._shape(extension, format, mode) if shape is None else shape

    def _shape(self, extension: str, format: str, mode: str) -> int:
        kind: Any = {"": "meta" if extension == "json" else "text"}.get(format, "image")
        of_kind: dict[str, dict[str, Any]] = {
            "image": {"format": format, "height": 0, "width": 0, "mode": mode, "frames": 1, "verified": "header"},
            "text": {"role": "caption", "train": True},
            "meta": {"format": FOREIGN},
        }
        number = self._columns.shape(Part(extension, kind, 0, 0, 0, **of_kind[kind]))
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


def _objects(members: list[bytes]) -> list[int]:
    """What each JSON member is to its sample; 0 where it takes more to say."""
    compiled = calls()
    if compiled is None:
        return _parsed(members)
    found = [_KINDS_OF[names] for names in compiled.named(members, _NAMES)]
    return [_object(member) if kind < 0 else kind for kind, member in zip(found, members, strict=True)]


def _parsed(members: list[bytes]) -> list[int]:
    """As `_objects`. They are parsed as one text, with marks between them that tell whether each was a whole value; if
    one was not, each is parsed for itself."""
    mark = '"between two members 1f9c6e0a"'
    try:
        text = f",{mark},".join([member.decode() for member in members])
        if text.count(mark) == len(members) - 1 and all(
            member[:1] == b"{" and b"\0" not in member for member in members
        ):
            values = json.loads(f"[{text}]")
            marks, values = values[1::2], values[::2]
            if len(values) == len(members) and set(marks) <= {mark[1:-1]} and set(map(type, values)) == {dict}:
                return [_kind_of(value) for value in values]
    except (ValueError, RecursionError, TypeError):
        pass  # each for itself, then
    return [_object(member) for member in members]


def _kind_of(value: dict[str, Any]) -> int:
    if not value.keys().isdisjoint(_messages.KEYS):
        return 0
    return _BARE if value.keys().isdisjoint(CAPTIONS) else _CAPTIONED


def _object(data: bytes) -> int:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return 0
    return _kind_of(value) if isinstance(value, dict) else 0
