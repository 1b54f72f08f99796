"""An open shard's facts as numpy columns: what each medium is, told for thousands of samples at a time."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np
import pyarrow as pa

from mmdata.shards import arrow
from mmdata.shards.index import Index
from mmdata.types import Media, Place

KEPT = Place(offset=0, size=0, crc32c=-1)
"""The place of a medium that several samples share the facts of: its bytes are kept, each sample's at its own place.
No bytes have this checksum, so that reading it fails."""
INTERNED = 1 << 16
"""Different facts that are remembered over all shards of a dataset."""
_FACTS = (
    "kind",
    "role",
    "format",
    "height",
    "width",
    "mode",
    "frames",
    "fps",
    "seconds",
    "sample_rate",
    "channels",
    "samples",
    "verified",
)
_ALONE = -1

Interned = MutableMapping[tuple[Any, ...], Media]


class MediaFacts:
    """The media of a shard's samples without their identity (data, uri, sha256, own place): media of equal facts are
    one object, also across shards by `interned`.

    A medium that is more than its facts (a packet table, marks, stored outputs, bytes that were not kept) is none of
    them: of its sample `of` knows nothing, and its index row must be read.
    """

    def __init__(self, index: Index, interned: Interned) -> None:
        lists, parts = index.parts()
        kinds, names = arrow.codes(parts.field("kind"))
        media = np.isin(kinds, [at for at, name in enumerate(names) if name in ("image", "video", "audio")])
        alone = media & (
            (arrow.lengths(parts.field("name")) == 0)
            | arrow.valid(parts.field("packets"))
            | arrow.valid(parts.field("marks"))
        )
        stored = np.isin(kinds, [at for at, name in enumerate(names) if name == "stored"])
        if stored.any():  # belongs to the nearest medium before it
            owners = np.maximum.accumulate(np.where(media, np.arange(len(media)), 0))[stored]
            alone[owners] = True
        self._parts = parts
        self._interned = interned
        at = np.flatnonzero(media)
        codes, self._examples = _groups([parts.field(name) for name in _FACTS], at)
        codes[alone[at]] = _ALONE
        self._media: list[Media | None] = [None] * len(self._examples)
        self._groups, groups = _rows(codes, np.searchsorted(at, lists))
        self._codes = groups
        self._tuples: list[tuple[Media, ...] | None] = [None] * len(groups)

    def of(self, rows: np.ndarray) -> list[tuple[Media, ...] | None]:
        """The media of each of these samples (int64 [N], rows of the shard), in order; None where its index row must
        be read."""
        groups = self._groups[rows]
        fresh = [g for g in np.unique(groups).tolist() if g != _ALONE and self._tuples[g] is None]
        if fresh:
            self._make({code for group in fresh for code in self._codes[group] if self._media[code] is None})
        for group in fresh:
            self._tuples[group] = tuple(self._media[code] for code in self._codes[group])  # type: ignore[misc]
        found = [*self._tuples, None]  # -1 is the last
        return [found[group] for group in groups.tolist()]

    def _make(self, codes: set[int]) -> None:
        """Make the media of these codes, each from the first part that has it."""
        if len(self._interned) + len(codes) > INTERNED:
            self._interned.clear()
        ordered = sorted(codes)
        at = arrow.indices(np.array([self._examples[code] for code in ordered]))
        values = [self._parts.field(name).take(at).to_pylist() for name in _FACTS]
        for code, (*facts, verified) in zip(ordered, zip(*values, strict=True), strict=True):
            key = (*facts, verified or "none")
            medium = self._interned.get(key)
            if medium is None:
                medium = self._interned[key] = Media(place=KEPT, **dict(zip(_FACTS, key, strict=True)))
            self._media[code] = medium


def first_digests(index: Index, rows: np.ndarray) -> list[str | None]:
    """The SHA-256 of the first medium of each of these rows (int64 [N]), in hex; None where there is no medium, or its
    digest is not known. Of equal rows each has its own."""
    lists, parts = index.parts()
    kinds, names = arrow.codes(parts.field("kind"))
    media = np.flatnonzero(np.isin(kinds, [at for at, name in enumerate(names) if name in ("image", "video", "audio")]))
    if not len(media):
        return [None] * len(rows)
    first = media[np.minimum(np.searchsorted(media, lists[rows]), len(media) - 1)]
    digests = parts.field("sha256").take(arrow.indices(first)).to_pylist()
    has = (first >= lists[rows]) & (first < lists[rows + 1])
    return [digest if there else None for digest, there in zip(digests, has.tolist(), strict=True)]


def media_counts(index: Index, kind: str) -> np.ndarray:
    """How many media of a kind each row of an index has: int64 [rows]. At least one row."""
    lists, parts = index.parts()
    kinds, names = arrow.codes(parts.field("kind"))
    wanted = kinds == names.index(kind) if kind in names else np.zeros(len(kinds), bool)
    sums = np.concatenate([[0], np.cumsum(wanted, dtype=np.int64)])
    return np.diff(sums[lists])


def _groups(columns: list[pa.Array], at: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Number the different combinations of values at the places `at`: (a number for each, a place for each number)."""
    codes = np.zeros(len(at), np.int64)
    for column in columns:
        values = _integers(column)[at]
        if not len(values) or (values == values[0]).all():
            continue
        numbers = np.unique(values, return_inverse=True)[1]
        # Both factors are less than the number of media of a shard, so their product has room.
        codes = np.unique(codes * (int(numbers.max()) + 1) + numbers, return_inverse=True)[1]
    _, examples = np.unique(codes, return_index=True)
    return codes.astype(np.int64), at[examples].tolist()


def _rows(codes: np.ndarray, firsts: np.ndarray) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Number the different lists of codes that rows have: (int64 [rows], the list of each number). Row i has
    codes[firsts[i]:firsts[i + 1]]; one that holds `_ALONE` gets that for its number."""
    counts = np.diff(firsts)
    groups = np.full(len(counts), _ALONE, np.int64)
    lists: dict[tuple[int, ...], int] = {}
    single = counts == 1
    own = codes[firsts[:-1][single]]
    known, numbers = np.unique(own, return_inverse=True)
    for code in known.tolist():
        lists[(code,)] = len(lists)
    groups[single] = np.where(own == _ALONE, _ALONE, numbers)
    for row in np.flatnonzero(~single).tolist():
        found = tuple(codes[firsts[row] : firsts[row + 1]].tolist())
        if _ALONE not in found:
            groups[row] = lists.setdefault(found, len(lists))
    return groups, list(lists)


def _integers(column: pa.Array) -> np.ndarray:
    """Equal integers for equal values, and one that is no other value's for null."""
    if pa.types.is_string(column.type):
        return arrow.codes(column)[0]
    values = arrow.numbers(column)
    floats = values.dtype == np.float64
    found = values.view(np.int64).copy() if floats else values.astype(np.int64)
    found[~arrow.valid(column)] = -1 if floats else np.iinfo(np.int64).min  # as a float, -1 is a NaN that nobody makes
    return found
