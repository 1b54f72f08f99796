"""The leanest way to samples: their bytes as they lie in the shard, many in one read, nothing decoded or copied."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmdata.checksum import crc32c
from mmdata.shards.index import Index
from mmdata.types import Place

TOGETHER = 1 << 18
"""Bytes of neighbouring samples that are read at once, at most. What keeps a part of one keeps as much alive."""
APART = 1 << 16
"""Bytes that belong to nobody between two parts of a sample, from which on each part is read alone."""

Raw = tuple[str, dict[str, memoryview]]
"""The key of a sample and the bytes of its parts, by what follows `<key>.` in the tar, read-only."""
Read = Callable[[int, int], "bytes | memoryview"]
"""(offset, size) to exactly these bytes of the shard."""
KNOWN: list[str] = []
"""Names of parts that raw.c has seen, as most shards have the same few."""
Again = Callable[[str, Place], bytes]
"""What to do about bytes that are not what their checksum says: (name, place) to the right ones, or DataError."""


@dataclass(frozen=True, slots=True)
class RawSample:
    """A sample as its bytes: what `StreamingDataset(..., yields="bytes")` gives. Between processes bytes are copied."""

    key: str
    parts: Mapping[str, memoryview]
    """The bytes of each part, by what follows `<key>.` in the tar, read-only; those that were not kept are left out."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_bytes, (self.key, {name: bytes(data) for name, data in self.parts.items()})


def _from_bytes(key: str, parts: dict[str, bytes]) -> RawSample:
    return RawSample(key, {name: memoryview(data) for name, data in parts.items()})


class OnePlaces:
    """Where the parts of a shard's samples lie, for who takes them one by one: nothing is computed of the others, so
    that the first sample of a shard costs the same at ten samples and at a million. Unless parts lie `together` in a
    file, each is read alone."""

    def __init__(self, index: Index, *, together: bool = True) -> None:
        places = index.places()
        self._together = together
        self._key_ends, self._key_bytes = places.key_ends.data, places.key_bytes
        self._name_ends, self._name_bytes = places.name_ends.data, places.name_bytes
        self._firsts = places.firsts.data
        self._offsets, self._sizes, self._crcs = places.offsets.data, places.sizes.data, places.crcs.data
        self._names: dict[bytes, str] = {}

    def sample(self, row: int, read: Read, again: Again | None) -> Raw:
        """The sample at a row of the shard, as `RawPlaces.sample` gives it."""
        ends, data, known = self._name_ends, self._name_bytes, self._names
        offsets, sizes, found, held = self._offsets, self._sizes, [], 0
        base, stop = 1 << 63, 0
        for i in range(self._firsts[row], self._firsts[row + 1]):
            if not (told := bytes(data[ends[i] : ends[i + 1]])):  # a medium whose own bytes were not kept
                continue
            name = known.get(told) or known.setdefault(told, told.decode())
            at, size = offsets[i], sizes[i]
            base, stop, held = min(base, at), max(stop, at + size), held + size
            found.append((name, i, at, size))
        together = self._together and stop - base - held <= APART
        whole = memoryview(read(base, stop - base) if found and together else b"")
        key = str(self._key_bytes[self._key_ends[row] : self._key_ends[row + 1]], "utf-8")
        parts = {}
        for name, i, at, size in found:
            part = whole[at - base : at - base + size] if together else memoryview(read(at, size)).toreadonly()
            if again is not None and crc32c(part) != self._crcs[i]:
                part = memoryview(again(f"{key}.{name}", Place(offset=at, size=size, crc32c=self._crcs[i])))
            parts[name] = part
        return key, parts

    def checked(self, rows: Iterable[int], samples: Iterable[Raw], read: Read, again: Again) -> Iterator[Raw]:
        """These samples, which are those at these rows, once their parts have been compared with their crc32c."""
        firsts, crcs, checksum = self._firsts, self._crcs, crc32c
        for row, sample in zip(rows, samples, strict=False):
            i = firsts[row]
            for part in sample[1].values():
                if checksum(part) != crcs[i]:
                    break
                i += 1
            yield sample if i == firsts[row + 1] else self._looked_at(row, sample, read, again)

    def _looked_at(self, row: int, sample: Raw, read: Read, again: Again) -> Raw:
        """A sample some of whose parts were not kept, have the name of another, or are not what their sums say."""
        ends, crcs = self._name_ends, self._crcs
        sums = [crcs[i] for i in range(self._firsts[row], self._firsts[row + 1]) if ends[i] != ends[i + 1]]
        if [crc32c(part) for part in sample[1].values()] == sums:
            return sample
        return self.sample(row, read, again)


class RawPlaces:
    """Where the parts of a shard's samples lie, for who takes many in a row: as memoryviews, since Python takes a
    number out of one nearly as fast as out of a list. Unless parts lie `together` in a file, each is read alone."""

    def __init__(self, index: Index, *, together: bool = True) -> None:
        places = index.places()
        firsts, ends = places.firsts, places.offsets + places.sizes
        offsets, crcs = places.offsets, places.crcs
        self.names, kept = _names(len(firsts) - 1, places.name_ends.tobytes(), bytes(places.name_bytes))
        if kept is not None:
            firsts = np.concatenate([[0], kept.cumsum()])[firsts]
            offsets, ends, crcs = offsets[kept], ends[kept], crcs[kept]
        starts, stops = _spans(firsts, offsets, ends)
        self.key_ends, self.key_bytes = places.key_ends.data, places.key_bytes
        self.firsts = firsts.data
        self.offsets = offsets.data
        self.ends = ends.data
        self.crcs = crcs.data
        self.starts = starts.data
        self.stops = (stops if together else starts - 1).data

    def key(self, row: int) -> str:
        """The key of a row."""
        return str(self.key_bytes[self.key_ends[row] : self.key_ends[row + 1]], "utf-8")

    def sample(self, row: int, read: Read, again: Again | None) -> Raw:
        """`samples` of one row."""
        base, stop = self.starts[row], self.stops[row]
        if stop < base:
            return self._apart(row, read, again)
        data, parts = memoryview(read(base, stop - base)), {}
        offsets, ends, names = self.offsets, self.ends, self.names
        for i in range(self.firsts[row], self.firsts[row + 1]):
            part = data[offsets[i] - base : ends[i] - base]
            if again is not None and crc32c(part) != self.crcs[i]:
                part = self._again(row, i, again)
            parts[names[i]] = part
        return self.key(row), parts

    def samples(self, rows: Sequence[int], read: Read, again: Again | None) -> Iterator[Raw]:
        """The samples at rows of the shard, in the order given. With `again`, each part is compared with its crc32c
        while it is still in the processor's cache; of an index without sums there is none."""
        # One loop without calls of its own: at 300 KB a sample, three microseconds are a tenth of reading it.
        starts, stops, firsts = self.starts, self.stops, self.firsts
        key_ends, key_bytes = self.key_ends, self.key_bytes
        names, offsets, ends, crcs = self.names, self.offsets, self.ends, self.crcs
        checksum, together, count, at, until = crc32c, TOGETHER, len(rows), 0, 0
        base, data = 0, memoryview(b"")
        for row in rows:
            if at == until:
                base, stop, until = starts[row], stops[row], at + 1
                # What was read before is let go first, so that the next read gets the same memory, which is still in
                # the cache. The sample that was yielded holds it for as long as its taker wants.
                del data
                if stop < base:
                    data = memoryview(b"")
                    yield self._apart(row, read, again)
                    at = until
                    continue
                if stop - base < together:
                    while (
                        until < count
                        and (following := rows[until]) == row + until - at
                        and 0 <= starts[following] - stop <= APART
                        and starts[following] <= stops[following] <= base + together
                    ):
                        stop = stops[following]
                        until += 1
                data = memoryview(read(base, stop - base))
            at += 1
            parts = {}
            for i in range(firsts[row], firsts[row + 1]):
                part = data[offsets[i] - base : ends[i] - base]
                if again is not None and checksum(part) != crcs[i]:
                    part = self._again(row, i, again)
                parts[names[i]] = part
            yield str(key_bytes[key_ends[row] : key_ends[row + 1]], "utf-8"), parts

    def _apart(self, row: int, read: Read, again: Again | None) -> Raw:
        """A sample whose parts do not lie together."""
        parts = {}
        for i in range(self.firsts[row], self.firsts[row + 1]):
            part = memoryview(read(self.offsets[i], self.ends[i] - self.offsets[i])).toreadonly()
            if again is not None and crc32c(part) != self.crcs[i]:
                part = self._again(row, i, again)
            parts[self.names[i]] = part
        return self.key(row), parts

    def _again(self, row: int, i: int, again: Again) -> memoryview:
        """A part that is not what its checksum says, from where else it may lie."""
        place = Place(offset=self.offsets[i], size=self.ends[i] - self.offsets[i], crc32c=self.crcs[i])
        return memoryview(again(f"{self.key(row)}.{self.names[i]}", place))


@functools.lru_cache(maxsize=4)
def _names(rows: int, ends: bytes, data: bytes) -> tuple[tuple[str, ...], np.ndarray | None]:
    """The names of parts, which end at `ends` (int32 [N + 1]) of `data`, without empty ones; and which are not empty,
    bool [N], or None where all are. Shards that follow each other mostly have the same ones."""
    bounds = np.frombuffer(ends, np.int32)
    count = len(bounds) - 1
    each = count // rows
    # Most shards have the same few names in every row.
    if each and count == each * rows and data == (one := data[: bounds[each]]) * rows:
        names = tuple(one[a:b].decode() for a, b in itertools.pairwise(bounds[: each + 1].tolist()))
        sizes = np.diff(bounds).reshape(rows, each)
        if "" not in names and (sizes == sizes[0]).all():
            return names * rows, None
    known: dict[bytes, str] = {}
    listed = [
        known.get(name := data[a:b]) or known.setdefault(name, name.decode())
        for a, b in itertools.pairwise(bounds.tolist())
    ]
    kept = np.diff(bounds) > 0  # a medium whose own bytes were not kept has no name
    return tuple(name for name in listed if name), None if kept.all() else kept


def _spans(firsts: np.ndarray, offsets: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes from the first to the last part of each sample: int64 [rows] each. A sample without parts gets an
    empty span, one with parts far apart a negative one."""
    at = firsts[:-1]
    if len(offsets) > 1:  # Most shards hold part after part in their order, with nothing but headers between them.
        apart = (offsets[1:] - ends[:-1]).view(np.uint64)  # what is negative is large
        each = firsts[1:] - at
        if int(apart.max()) * int(each.max()) <= APART and each.min() > 0:
            return offsets[at], ends[firsts[1:] - 1]
    some = at < firsts[1:]
    if some.all():
        starts, stops = np.minimum.reduceat(offsets, at), np.maximum.reduceat(ends, at)
        far = stops - starts - np.add.reduceat(ends - offsets, at) > APART
        stops[far] = starts[far] - 1
        return starts, stops
    starts, stops = np.zeros(len(some), np.int64), np.zeros(len(some), np.int64)
    if some.any():
        starts[some], stops[some] = _spans(np.append(firsts[:-1][some], firsts[-1]), offsets, ends)
    return starts, stops
