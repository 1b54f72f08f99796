"""Nearest neighbours and close pairs among 64-bit hashes under the Hamming distance, exact and sub-quadratic.

Multi-index hashing (Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", CVPR
2012). Cut the 64 bits into m chunks and let r = m*q + a with 0 <= a < m. If two hashes differed in more than q
bits in each of the first a+1 chunks and in q or more bits in each of the others, they would differ in at least
(a+1)(q+1) + (m-a-1)q = r+1 bits. So two hashes within r agree up to q bits in one of the first a+1 chunks, or
up to q-1 bits in one of the others. Tables from chunk value to hashes, probed at every chunk value that near,
therefore miss nothing; each candidate is then measured in full.

A table pays when its chunks are about as wide as log2(n), so hashes are kept as a log-structured merge tree:
fresh ones in a small buffer that is scanned, older ones in sorted segments of growing size, each with the chunk
width that is cheapest for its size. Searches are made for many hashes at once: what numpy takes for a call, some
50 us for all that one search needs, is several times what its probes and candidates take. The tables are searched by a
kernel where that was compiled (`mmdata.native.near`), else by numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from mmdata.native import near

BITS = 64
BUFFER = 2048  # Hashes scanned one by one before they are sorted into a segment.
GROWTH = 4  # A segment is at least so many times larger than the one after it.
WIDEST = 24  # Bits of the widest chunk: a table has at most 2**24 entries of 4 bytes.
BLOCK = 1 << 17  # Candidates measured at a time: bounds memory, and fits a cache.
PROBED = 1 << 18  # Entries looked up at a time: all of a thousand queries.
LARGE = 1 << 18  # Hashes whose tables no cache holds: entries are looked up in their order.
FEWEST_SLOTS, MOST_SLOTS = 4, 64
ROOM = 1.4  # times as many slots as hashes in a bucket, at least: hashes are clumpy
# Measured on one core, in nanoseconds, per table entry looked up, per slot of it, and per hash scanned without a table.
# Only their ratios matter, and only for speed.
PROBE, SLOT, SCAN = 20.0, 2.0, 2.0

_FAR = BITS + 1
"""The distance of nothing."""

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tables:
    """How to search by table: the (shift, width) of each chunk that has one, and, one entry per probe, which
    table entry to look up: `base + ((query >> shift) & low ^ mask)`. All tables lie in one array of `size` entries."""

    chunks: tuple[tuple[int, int], ...]
    size: int
    shift: Hashes
    low: Hashes
    mask: Hashes
    base: Ints
    probes: tuple[int, ...]
    """Of each chunk."""


@cache
def _masks(width: int, radius: int) -> Hashes:
    values = [sum(1 << bit for bit in bits) for k in range(radius + 1) for bits in combinations(range(width), k)]
    return np.array(values, dtype=np.uint64)


@cache
def _widths(chunks: int) -> tuple[int, ...]:
    base, extra = divmod(BITS, chunks)
    return tuple(base + (i < extra) for i in range(chunks))


def _radii(chunks: int, radius: int) -> list[int]:
    """Radius to search in each chunk; -1 for a chunk that need not be looked at.

    >>> _radii(4, 6), _radii(3, 6), _radii(3, 0)
    ([1, 1, 1, 0], [2, 1, 1], [0, -1, -1])
    """
    q, a = divmod(radius, chunks)
    return [q if i <= a else q - 1 for i in range(chunks)]


def _tables(count: int, radius: int) -> Tables:
    """Search by `count` chunks."""
    chunks, masks, bases, shift, base = [], [], [], 0, 0
    for width, reach in zip(_widths(count), _radii(count, radius), strict=True):
        if reach >= 0:
            chunks.append((shift, width))
            masks.append(_masks(width, reach))
            bases.append(base)
            base += (1 << width) + 1
        shift += width
    probes = [len(mask) for mask in masks]
    return Tables(
        tuple(chunks),
        base,
        np.repeat(np.array([shift for shift, _ in chunks], dtype=np.uint64), probes),
        np.repeat(np.array([(1 << width) - 1 for _, width in chunks], dtype=np.uint64), probes),
        np.concatenate(masks),
        np.repeat(np.array(bases, dtype=np.int64), probes),
        tuple(probes),
    )


@cache
def _plan(size_bits: int, radius: int) -> Tables | None:
    """The cheapest way to search up to 2**size_bits hashes; None where a scan of them is cheaper than any table."""
    best, plan = SCAN * 2.0**size_bits, 0
    # No table is larger than twice what it holds: larger ones save candidates, but each probe misses the caches.
    fewest = -(-BITS // min(WIDEST, max(size_bits + 1, 8)))
    for count in range(fewest, max(radius + 1, fewest) + 1):
        probes = sum(
            comb(w, k) for w, r in zip(_widths(count), _radii(count, radius), strict=True) for k in range(r + 1)
        )
        # What does not fit the slots of a bucket is measured one by one, ten times as dear.
        each = ROOM * 2.0**size_bits / 2 ** min(_widths(count))
        slots = _slots(each)
        cost = probes * (PROBE + SLOT * (slots + 10 * max(each - slots, 0)))
        if cost < best:
            best, plan = cost, count
    return _tables(plan, radius) if plan else None


def _slots(wanted: float) -> int:
    """Slots of a bucket: a power of two, as rows of such lengths are copied fastest."""
    return min(max(1 << int(wanted).bit_length(), FEWEST_SLOTS), MOST_SLOTS)


class _Segment:
    """An unchanging set of hashes. `hashes` u64[n] are distinct; `ids` i64[n] are the smallest given for each.

    A table has its buckets twice: as stretches of `_order`, and as rows of `_prints` with 32 bits of each of the first
    so many hashes of the bucket. Hardly any candidate is near, and these bits tell nearly all: a lookup is a copy of
    one short row and arithmetic on it, without an index for each candidate.
    """

    __slots__ = ("_kernel", "_long", "_order", "_prints", "_starts", "_tables", "hashes", "ids")

    def __init__(self, hashes: Hashes, ids: Ints, radius: int) -> None:
        # What comes in is a few sorted runs, which the stable sort merges.
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        first = np.ones(len(hashes), dtype=bool)
        first[1:] = hashes[1:] != hashes[:-1]
        self.hashes = hashes[first]
        self.ids = np.minimum.reduceat(ids[order], np.flatnonzero(first)) if len(ids) else ids
        self._tables = _plan(max(len(self.hashes) - 1, 0).bit_length(), radius)
        if self._tables is None:
            return
        # Positions sorted by the first chunk's value, then by the second's, ...; where each value starts; some bits of
        # the first hashes of each value; and which values have more.
        n = len(self.hashes)
        slots = _slots(ROOM * n / 2 ** min(width for _, width in self._tables.chunks))
        self._order = np.empty(len(self._tables.chunks) * n, dtype=np.uint32)
        self._starts = np.empty(self._tables.size, dtype=np.uint32)
        self._prints = _lines(self._tables.size, slots)
        self._long = np.zeros(self._tables.size, dtype=bool)
        behind_all = np.empty(len(self._order), dtype=np.uint32)
        base = 0
        for i, (shift, width) in enumerate(self._tables.chunks):
            values = ((self.hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)).astype(np.uint32)
            order = _sorted(values)
            self._order[i * n : (i + 1) * n] = order
            counts = np.bincount(values, minlength=1 << width)
            ends = counts.cumsum()
            stretch = slice(base, base + len(ends))
            self._starts[stretch] = ends - counts + i * n
            self._starts[stretch.stop] = (i + 1) * n
            self._long[stretch] = counts > slots
            prints = behind_all[i * n : (i + 1) * n] = _prints(self.hashes, shift + width).take(order)
            into = ((np.arange(len(ends)) + base) * slots - (ends - counts)).repeat(counts) + np.arange(n)
            if self._long[stretch].any():
                kept = np.arange(n) - (ends - counts).repeat(counts) < slots
                prints, into = prints[kept], into[kept]
            self._prints.reshape(-1)[into] = prints
            base = stretch.stop + 1
        tables = self._tables
        behind = [shift + width for shift, width in tables.chunks]
        self._kernel = near.searched(
            {
                "shift": tables.shift,
                "low": tables.low,
                "mask": tables.mask,
                "base": tables.base,
                "behind": np.repeat(np.array(behind, np.uint64), tables.probes),
                "prints": self._prints,
                "starts": self._starts,
                "order": self._order,
                "all": behind_all,
                "more": np.packbits(self._long, bitorder="little"),
                "hashes": self.hashes,
                "ids": self.ids,
            }
        )

    def _places(self, queries: Hashes) -> tuple[Ints, Ints | None]:
        """Places in the tables to look at, i64[Q * P], those of query q from q * P on; and their turn, where they are
        not in this order."""
        tables = self._tables
        assert tables is not None
        # A chunk has at most WIDEST bits, so that the unsigned value reads the same as a signed one.
        places = tables.base + (((queries[:, None] >> tables.shift) & tables.low) ^ tables.mask).view(np.int64)
        places = places.ravel()
        if len(self.hashes) < LARGE:
            return places, None
        # In the order in which they lie, about: each on its own is a miss of every cache.
        turn = np.argsort((places >> max(tables.size.bit_length() - 16, 0)).astype(np.uint16), kind="stable")
        return places.take(turn), turn

    def ranges(self, queries: Hashes) -> tuple[Ints, Ints, Ints]:
        """Stretches of `candidates` that hold all that is within the radius of a query, and some that is not:
        (numbers, starts, lengths), where P stretches have the numbers q * P to q * P + P - 1 for query q. One hash may
        be found several times."""
        tables = self._tables
        if tables is None:
            zeros = np.zeros(len(queries), dtype=np.int64)
            return np.arange(len(queries)), zeros, zeros + len(self.hashes)
        places, turn = self._places(queries)
        numbers = np.arange(len(places)) if turn is None else turn
        starts = self._starts.take(places).astype(np.int64)
        return numbers, starts, self._starts[1:].take(places) - starts

    def candidates(self, starts: Ints, lengths: Ints) -> Ints:
        """Positions in `hashes` that some stretches hold, one after the other."""
        places = _expand(starts, lengths)
        return places if self._tables is None else self._order.take(places).astype(np.int64)

    def nearest(self, queries: Hashes, radius: int) -> tuple[Ints, Ints]:
        """For each query the distance of the nearest hash and the smallest id of those; `_FAR` if all are too far."""
        distances, ids = _nothing(len(queries))
        if not len(self.hashes):
            return distances, ids
        # Most copies of a picture have its hash: sorted hashes tell these at once.
        places = np.searchsorted(self.hashes, queries)
        same = self.hashes.take(places, mode="clip") == queries
        distances[same], ids[same] = 0, self.ids[places[same]]
        rest = np.flatnonzero(~same)
        if self._tables is None:
            distances[rest], ids[rest] = _scan(self.hashes, self.ids, queries[rest], radius)
            return distances, ids
        if self._kernel is not None:
            self._kernel.nearest(queries, rest, radius, distances, ids)
            return distances, ids
        for at in range(0, len(rest), step := max(PROBED // len(self._tables.mask), 1)):
            self._look_up(queries, rest[at : at + step], radius, distances, ids)
        return distances, ids

    def _look_up(self, queries: Hashes, some: Ints, radius: int, distances: Ints, ids: Ints) -> None:
        """`nearest` of some of the queries, into `distances` and `ids`."""
        tables, slots = self._tables, self._prints.shape[1]
        assert tables is not None
        probes, own = len(tables.mask), queries[some]
        places, turn = self._places(own)
        prints = np.stack([_prints(own, shift + width) for shift, width in tables.chunks], axis=1)
        prints = prints.repeat(tables.probes, axis=1).ravel()
        asking = some.repeat(probes)
        if turn is not None:
            prints, asking = prints.take(turn), asking.take(turn)

        def measure(which: Ints, positions: Ints) -> None:
            apart = np.bitwise_count(self.hashes.take(positions) ^ queries[which])
            close = np.flatnonzero(apart <= radius)
            _least(which[close], apart[close], self.ids[positions[close]], distances, ids)

        for begin in range(0, len(places), step := BLOCK // slots):
            here = places[begin : begin + step]
            rows = self._prints.take(here, axis=0)
            rows ^= prints[begin : begin + step, None]
            near = np.flatnonzero((np.bitwise_count(rows) <= radius).ravel())
            number = near // slots
            # An empty slot has the print 0: it is told by where the bucket ends.
            positions = self._starts.take(here[number]) + (near - number * slots)
            there = np.flatnonzero(positions < self._starts.take(here[number] + 1))
            measure(asking[number[there] + begin], self._order.take(positions[there]).astype(np.int64))
        long = np.flatnonzero(self._long.take(places))
        starts = self._starts.take(places[long]).astype(np.int64) + slots
        lengths = self._starts.take(places[long] + 1) - starts
        for begin, end in _blocks(lengths, BLOCK):
            positions = self._order.take(_expand(starts[begin:end], lengths[begin:end])).astype(np.int64)
            measure(asking[long[begin:end]].repeat(lengths[begin:end]), positions)


def _lines(rows: int, columns: int) -> NDArray[np.uint32]:
    """Zeros u32[rows, columns], where a row lies in as few lines of a cache as can be."""
    line = 64 // 4
    room = np.zeros(rows * columns + line, dtype=np.uint32)
    first = -(room.ctypes.data // 4) % line
    return room[first : first + rows * columns].reshape(rows, columns)


def _prints(hashes: Hashes, behind: int) -> NDArray[np.uint32]:
    """Of each hash the 32 bits from bit `behind` on, round and round: those behind a chunk, of which nothing is
    known where the chunk is the same."""
    turned = hashes >> np.uint64(behind % BITS) | hashes << np.uint64(-behind % BITS)
    return turned.astype(np.uint32)


def _nothing(count: int) -> tuple[Ints, Ints]:
    return np.full(count, _FAR, dtype=np.int64), np.zeros(count, dtype=np.int64)


def _least(which: Ints, apart: NDArray[np.uint8], found: Ints, distances: Ints, ids: Ints) -> None:
    """Put the least (distance, id) of each query that something was found for into its place, if it is less."""
    order = np.lexsort((found, apart, which))
    which, apart, found = which[order], apart[order], found[order]
    first = np.ones(len(which), dtype=bool)
    first[1:] = which[1:] != which[:-1]
    which, apart, found = which[first], apart[first], found[first]
    less = (apart < distances[which]) | ((apart == distances[which]) & (found < ids[which]))
    distances[which[less]], ids[which[less]] = apart[less], found[less]


def _scan(hashes: Hashes, of: Ints, queries: Hashes, radius: int) -> tuple[Ints, Ints]:
    """As `_Segment.nearest`, by measuring every hash; `of` i64[n] are the ids of `hashes` u64[n]."""
    distances, ids = _nothing(len(queries))
    count = max(len(hashes), 1)
    step = max(BLOCK // count, 1)
    for at in range(0, len(queries), step):
        apart = np.bitwise_count(queries[at : at + step, None] ^ hashes).ravel()
        near = np.flatnonzero(apart <= radius)  # in one dimension: in two it takes longer than all the rest
        _least(near // count + at, apart[near], of[near % count], distances, ids)
    return distances, ids


def _blocks(sizes: Ints, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of places that hold at most so much together, or one place alone.

    >>> list(_blocks(np.array([2, 2, 9, 1]), most=4))
    [(0, 2), (2, 3), (3, 4)]
    """
    ends = sizes.cumsum()
    begin, before = 0, 0
    while begin < len(sizes):
        end = max(int(np.searchsorted(ends, before + most, side="right")), begin + 1)
        yield begin, end
        begin, before = end, int(ends[end - 1])


def _sorted(values: NDArray[np.uint32]) -> Ints:
    """Stable argsort. By 16 bits at a time, for which numpy has a radix sort; all at once takes some 5 times longer."""
    order = np.argsort(values.astype(np.uint16), kind="stable")
    if values.max(initial=0) >> 16:
        order = order[np.argsort((values >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]
    return order


def _expand(starts: Ints, lengths: Ints) -> Ints:
    """The integers of all ranges in one array.

    >>> _expand(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = lengths.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    places: Ints = (starts - ends + lengths).repeat(lengths) + np.arange(total)
    return places


class HammingIndex:
    """A growing set of (hash, id) that answers which are within `radius` bits of a hash.

    Equal hashes count as one, under the smallest id. `add` and a search take amortised sub-linear time wherever
    the radius allows (up to about 8 of 64 bits); at larger radii a plain scan of all hashes is often cheaper
    and is what is done. Memory per hash is 16 bytes, and 10 to 40 more for each chunk (3 to 7) that has a table.

    >>> index = HammingIndex(radius=2)
    >>> index.add(0b0000, 0); index.add(0b0111, 1)
    >>> index.nearest(0b0001), index.nearest(0b1111), index.nearest(0b11111000)
    ((1, 0), (1, 1), None)
    """

    def __init__(self, bits: int = BITS, *, radius: int) -> None:
        if bits != BITS or not 0 <= radius < BITS:
            raise ValueError(f"hashes of {BITS} bits and a radius of 0 to {BITS - 1} are supported")
        self.radius = radius
        self._segments: list[_Segment] = []
        self._hashes = np.empty(BUFFER, dtype=np.uint64)
        self._ids = np.empty(BUFFER, dtype=np.int64)
        self._fresh = 0
        self._expected: dict[int, tuple[int, int]] = {}  # (distance, id) of the nearest ...
        self._seen = 0  # ... of all but the fresh hashes from here on

    def add(self, hash: int, id: int) -> None:
        """Remember a hash (0 <= hash < 2**64) under an id (0 <= id < 2**63)."""
        self._hashes[self._fresh] = hash
        self._ids[self._fresh] = id
        self._fresh += 1
        if self._fresh == BUFFER:
            self._flush()

    def expect(self, hashes: Iterable[int]) -> None:
        """Search for these at once, ahead of `nearest`, which then looks only at what was added since: ten times as
        fast for a thousand. It is for a few thousand at most, and forgotten with the next call."""
        queries = np.unique(np.fromiter(hashes, dtype=np.uint64))
        if self._fresh + len(queries) > BUFFER:  # else it would fill before all are asked for
            self._flush()
        distances, ids = self._search(queries)
        self._expected = dict(zip(queries.tolist(), zip(distances.tolist(), ids.tolist(), strict=True), strict=True))
        self._seen = self._fresh

    def nearest(self, hash: int) -> tuple[int, int] | None:
        """(distance, id) of the hash nearest to `hash`; the smallest id where several are. None if none is within
        the radius."""
        best = self._expected.get(hash)
        if best is None:
            distances, ids = self._search(np.array([hash], dtype=np.uint64))
            best = int(distances[0]), int(ids[0])
        elif self._seen < self._fresh:
            apart = np.bitwise_count(self._hashes[self._seen : self._fresh] ^ np.uint64(hash))
            distance = int(apart.min())
            if distance <= min(best[0], self.radius):
                best = min(best, (distance, int(self._ids[self._seen : self._fresh][apart == distance].min())))
        return None if best[0] == _FAR else best

    def _search(self, queries: Hashes) -> tuple[Ints, Ints]:
        """(distances, ids) of the nearest of all hashes, `_FAR` where none is."""
        distances, ids = _scan(self._hashes[: self._fresh], self._ids[: self._fresh], queries, self.radius)
        for segment in self._segments:
            apart, found = segment.nearest(queries, self.radius)
            nearer = (apart < distances) | ((apart == distances) & (found < ids))
            distances[nearer], ids[nearer] = apart[nearer], found[nearer]
        return distances, ids

    def _flush(self) -> None:
        hashes, ids = self._hashes[: self._fresh].copy(), self._ids[: self._fresh].copy()
        while self._segments and len(self._segments[-1].hashes) < GROWTH * len(hashes):
            last = self._segments.pop()
            hashes, ids = np.concatenate([last.hashes, hashes]), np.concatenate([last.ids, ids])
            del last  # its tables, before there are new ones
        self._segments.append(_Segment(hashes, ids, self.radius))
        self._fresh = self._seen = 0
        self._expected.clear()


def pairs(hashes: Hashes, radius: int) -> Ints:
    """All pairs of positions i < j in `hashes` u64[n] that differ in at most `radius` bits: i64[pairs, 2], sorted.

    Equal hashes are searched once, so the time is sub-quadratic where the number of pairs is.

    >>> pairs(np.array([0b000, 0b111, 0b001, 0b000], dtype=np.uint64), radius=1).tolist()
    [[0, 2], [0, 3], [2, 3]]
    """
    distinct, group = np.unique(np.asarray(hashes, dtype=np.uint64), return_inverse=True)
    members = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=len(distinct))
    firsts = np.cumsum(sizes) - sizes
    segment = _Segment(distinct, np.arange(len(distinct)), radius)
    # A pair is one number, first * count + second, which sorts and collapses faster than two.
    count = len(distinct)
    blocks = range(0, count, BLOCK // 256)
    itself = np.arange(count) * (count + 1)
    near = np.concatenate([itself, *(_close(segment, at, distinct[at : at + BLOCK // 256], radius) for at in blocks)])
    left, right = near // max(count, 1), near % max(count, 1)
    # Every member of the first group with every member of the second.
    i = members[_expand(firsts[left], sizes[left])]
    again = np.repeat(right, sizes[left])
    j = members[_expand(firsts[again], sizes[again])]
    i = np.repeat(i, sizes[again])
    both = np.unique((np.minimum(i, j) * len(hashes) + np.maximum(i, j))[i != j])
    return np.stack([both // max(len(hashes), 1), both % max(len(hashes), 1)], axis=1)


def _close(segment: _Segment, low: int, queries: Hashes, radius: int) -> Ints:
    """All close pairs of a query and a later hash of the segment, as `pairs` numbers them; `queries` are the segment's
    hashes from `low` on."""
    numbers, starts, lengths = segment.ranges(queries)
    rows = numbers // (len(numbers) // len(queries))
    ends = lengths.cumsum()
    cuts = np.searchsorted(ends, np.arange(BLOCK, ends[-1], BLOCK))
    found = []
    begin = 0
    for end in [*cuts.tolist(), len(rows)]:
        positions = segment.candidates(starts[begin:end], lengths[begin:end])
        own = np.repeat(rows[begin:end], lengths[begin:end])
        later = positions > own + low
        own, positions = own[later], positions[later]
        near = np.bitwise_count(segment.hashes[positions] ^ queries[own]) <= radius
        found.append(np.unique((own[near] + low) * len(segment.hashes) + positions[near]))
        begin = end
    return np.unique(np.concatenate(found))
