"""Random access to a built dataset, by key or position, through its index."""

from __future__ import annotations

import functools
import itertools
import json
import operator
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np

from mmdata.checksum import crc32c
from mmdata.errors import DataError
from mmdata.shards import manifest as manifests
from mmdata.shards import tombstones
from mmdata.shards.cache import Cache
from mmdata.shards.columns import Interned, first_digests, media_counts
from mmdata.shards.folder import Folder
from mmdata.shards.index import FOREIGN, IndexRow, Part
from mmdata.shards.opened import Compared, Files, OpenShard, index_digest
from mmdata.shards.prefetch import Prefetcher, Request
from mmdata.shards.raw import Again, Raw
from mmdata.shards.remote import RemoteSource
from mmdata.shards.table import ShardEntry, ShardTable
from mmdata.shards.tombstones import Removal
from mmdata.types import Media, Origin, Place, Ref, Sample, Text

Integrity = Literal["crc32c", "off"]
OPEN_SHARDS = 64
OPEN_BYTES = 1 << 27
"""Bytes up to which more shards than that stay open: thousands of small ones."""

T = TypeVar("T")
manifests.checked()  # Made with the imports, of which it is one: who opens a dataset waits for its first sample.


class Dataset:
    """A finished dataset. `dataset[7]` and `dataset["000000007"]` are Samples with verified bytes.

    Positions count kept samples in input order, 0 to len-1. With `integrity="crc32c"` (the default) every
    byte and fact of a sample has been checked before it is returned; `"off"` skips that for bytes and rows. Of shards
    that were indexed without sums (`unsummed` of them) there is nothing to check them against.
    Opening reads the manifest only; index and shard files are opened when first needed, and the last `OPEN_SHARDS`
    indexes are kept, or as many as take `OPEN_BYTES`. Safe to use from several threads.
    A build that has not published its manifest yet passes it as `manifest`.

    `path` is a folder, or any URL that fsspec knows: then files of which much is read are kept in `cache`
    (`mmdata.shards.cache`; by default the user's own), and `path` of the dataset is a local folder beside it, for what
    is computed of the dataset.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        integrity: Integrity = "crc32c",
        manifest: manifests.Manifest | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.folder = Folder(path, cache=cache)
        self.path = self.folder.path
        self.uri = self.folder.uri
        self.integrity = integrity
        if manifest is None and os.path.exists(f"{self.path}/.build/publish.json"):
            raise DataError(
                "publish_interrupted",
                f"{self.path}: a change was interrupted while it was published; run the same command again to finish",
            )
        self.manifest = manifests.read(self.path) if manifest is None else manifest
        self._given = manifest
        shards = self.manifest.shards
        self._table = shards if isinstance(shards, ShardTable) else ShardTable.of(shards)
        self._firsts: np.ndarray | None = None
        self._removals: tuple[Removal, ...] | None = None
        self._interned: Interned = {}
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._open_bytes = 0
        self._compared: Compared = {}
        self._files: Files = deque()
        self._positions: dict[str, int] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.manifest.samples

    @property
    def unsummed(self) -> int:
        """Shards without any sum of their bytes and rows: of these nothing can be checked."""
        return self._table.unsummed

    @property
    def shard_firsts(self) -> np.ndarray:
        """The first position of each shard that has samples, and at the end their number: int64 [S + 1], mapped.
        Raises DataError where the manifest has others."""
        if self._firsts is None:
            firsts, said = self._table.firsts, self.manifest.table
            if said is not None and int(crc32c(firsts.data)) != said.firsts_crc32c:
                raise DataError("table_damaged", f"{self._table.name}: the numbers of samples have changed")
            self._firsts = firsts
        return self._firsts

    @property
    def shard_rows(self) -> np.ndarray:
        """Samples of each of these shards: int64 [S]."""
        return np.diff(self.shard_firsts)

    def shard(self, number: int) -> ShardEntry:
        """The number-th shard that has samples. Raises DataError where its row of the table has changed."""
        return self._table.shard(number)

    def removals(self) -> tuple[Removal, ...]:
        """What has been removed from the dataset since it was built (`mmdata.forget`), generation by generation; the
        samples can still be read. Looked up when it is called first. Raises DataError for damage, and RunError when the
        server of a remote dataset keeps failing or refuses to say whether there are any."""
        if self._removals is None:
            self.folder.mirror_numbered(tombstones.name)
            self._removals = tombstones.read(self.path)
        return self._removals

    def masked(self, generation: int | None = None) -> np.ndarray:
        """Positions of the samples that are removed as of a generation (default: the last), ascending: int64 [N].
        Raises DataError where there is no such generation."""
        removals = self.removals()
        generation = len(removals) if generation is None else generation
        if not 0 <= generation <= len(removals):
            raise DataError("tombstones_missing", f"{self.path}: generation {generation} of {len(removals)}")
        stones = [stone for removal in removals[:generation] for stone in removal.stones]
        positions = np.array([stone.position for stone in stones], np.int64)
        keys = [stone.key for stone in stones]
        inside = bool(((positions >= 0) & (positions < len(self))).all())
        if not inside or self.keys_at(positions) != keys:  # the shards are others, the keys are the same
            known = self._by_key()
            positions = np.array([known[key] for key in keys if key in known], np.int64)
        return np.unique(positions)

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    def __contains__(self, key: object) -> bool:
        return key in self._by_key()

    def keys(self) -> list[str]:
        """All keys, in order of position."""
        return list(self._by_key())

    def __getitem__(self, at: int | str) -> Sample:
        """The sample at a position or under a key. Raises IndexError, KeyError, TypeError for what is neither, or
        DataError for damage."""
        return self.sample(self.position(at))

    def position(self, at: int | str) -> int:
        """The position of a key, or a (possibly negative) position made non-negative."""
        if isinstance(at, str):
            try:
                return self._by_key()[at]
            except KeyError:
                raise KeyError(f"{self.path} has no key {at!r}") from None
        try:
            at = operator.index(at)
        except TypeError:
            raise TypeError(f"{self.path}: samples are asked for by position or key, not {at!r}") from None
        position = at + len(self) if at < 0 else at
        if not 0 <= position < len(self):
            raise IndexError(f"{self.path}: position {at} of {len(self)}")
        return position

    def ref(self, position: int) -> Ref:
        """The location of a position: unit number of its shard, and row in it."""
        entry = self._entry(self._table.find(position), position)
        return Ref(dataset=self.uri, shard=entry.unit, row=position - entry.first)

    def keys_at(self, positions: np.ndarray) -> list[str]:
        """The keys of samples at positions (int64 [N], in any order, none negative), shard by shard."""
        return self._by_shard(positions, lambda shard, rows: shard.index.keys(rows))

    def digests_at(self, positions: np.ndarray) -> list[str | None]:
        """The SHA-256 of the first medium of each sample at positions (int64 [N], in any order, none negative), as it
        came from its source; None where there is none, or nobody took it."""
        return self._by_shard(positions, lambda shard, rows: first_digests(shard.index, rows))

    def media_at(self, positions: np.ndarray) -> list[tuple[Media, ...]]:
        """The facts of the media of each sample at positions (int64 [N], in any order, none negative): no text or
        medium is read, and media of equal facts are one object wherever a medium is nothing but its facts.

        They carry neither data nor uri nor sha256, and of their place no more than whether there is one: `sample`
        gives those. Raises DataError for an index that has changed.
        """

        def facts(shard: OpenShard, rows: np.ndarray) -> list[tuple[Media, ...]]:
            found = shard.media(self._interned).of(rows)
            checked = self.integrity == "crc32c"
            return [
                media if media is not None else _media(shard, shard.index.row(row, check=checked))
                for media, row in zip(found, rows.tolist(), strict=True)
            ]

        return self._by_shard(positions, facts)

    def media_counts(self, number: int, kind: str) -> np.ndarray:
        """How many media of a kind each sample of the number-th shard has, by its index alone: int64 [rows]."""
        return media_counts(self._shard(number, int(self.shard_firsts[number])).index, kind)

    def entry(self, position: int) -> ShardEntry:
        """The shard that holds the sample at a position."""
        return self._entry(self._table.find(position), position)

    def row(self, position: int) -> IndexRow:
        """The index row at a position: facts and places, no media read."""
        shard, at = self._locate(position)
        return shard.index.row(at, check=self.integrity == "crc32c")

    def sample(self, position: int, *, media: bool = True, stored: bool = False) -> Sample:
        """The sample at a position, its bytes verified. With `media=False` media are not read: their parts carry
        facts and no data, but their place, for `read`. What views made of media is read with `stored=True` only."""
        shard, at = self._locate(position)
        row = shard.index.row(at, check=self.integrity == "crc32c")

        def data(part: Part) -> bytes | None:
            if part.inline is not None:
                return part.inline
            wanted = stored if part.kind == "stored" else media or part.kind in ("text", "meta")
            return self._read(shard, f"{row.key}.{part.name}", part.place) if wanted and part.place else None

        parts, meta = _parts(shard, row, data)
        return Sample(key=row.key, parts=parts, meta=meta, origin=Origin(uri=row.origin, row=row.origin_row))

    def read(self, position: int, place: Place) -> bytes:
        """The verified bytes of a medium (its `place`), or of what a view made of it, of the sample at a position."""
        shard, at = self._locate(position)
        return self._read(shard, f"row {at}", place)

    def raw(self, position: int) -> Raw:
        """The key of the sample at a position and the bytes of its parts as they lie in the shard, by name, read-only:
        one read, nothing decoded. Parts whose bytes were not kept are left out."""
        shard, row = self._locate(self.position(position))
        return next(itertools.chain.from_iterable(shard.samples([row], self._again(shard), view=False)))

    def iter_raw(self, positions: Iterable[int], *, view: bool = False) -> Iterator[Raw]:
        """`raw` of each of these positions, in their order. Neighbours (in ascending order) are read together.

        With `view`, local shards are mapped and parts are views of the map, without a copy; it is for disks that one
        trusts (see `LocalSource`). Raises DataError where bytes have changed, unless `integrity` is `off`.
        """
        # From one iterator to the next in C: a generator between them takes a microsecond of each sample, as the bytes
        # that were copied have pushed it out of the cache.
        return itertools.chain.from_iterable(self._runs(positions, view))

    def _runs(self, positions: Iterable[int], view: bool) -> Iterator[Iterable[Raw]]:
        wanted = np.fromiter(positions, np.int64) if not isinstance(positions, np.ndarray) else positions
        wanted = np.where(wanted < 0, wanted + len(self), wanted)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            raise IndexError(f"{self.path}: positions {wanted.min()} to {wanted.max()} of {len(self)}")
        firsts = self._table.firsts
        numbers = np.searchsorted(firsts, wanted, side="right") - 1
        starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist()] if len(wanted) else []
        rows, shards = (wanted - firsts[numbers]).tolist(), numbers[starts].tolist()
        for start, stop, number in zip(starts, [*starts[1:], len(rows)], shards, strict=False):
            shard = self._shard(number, int(wanted[start]))
            yield from shard.samples(rows[start:stop], self._again(shard), view=view)

    def _again(self, shard: OpenShard) -> Again | None:
        return functools.partial(self._read, shard) if self.integrity == "crc32c" and shard.index.sums else None

    def read_ahead(self, ahead: Prefetcher | None) -> None:
        """Ask `ahead` first for the bytes of remote shards, from now on and of those that are open; None ends it."""
        with self._lock:
            self.folder.ahead = ahead
            for shard in self._open.values():
                shard.read_ahead(ahead)

    def requests(self, position: int, places: Iterable[Place]) -> list[Request]:
        """What reading these places of the sample at a position will ask of a remote shard; nothing of a local one."""
        source = self._locate(position)[0].source
        if not isinstance(source, RemoteSource):
            return []
        return [Request(source, place.offset, place.size) for place in places]

    def _read(self, shard: OpenShard, name: str, place: Place) -> bytes:
        data = shard.read(place.offset, place.size)
        if self.integrity == "crc32c" and shard.index.sums and crc32c(data) != place.crc32c:
            # A remote shard may have been spoilt on its way here, or in the cache.
            again = shard.source.again(place.offset, place.size)
            if again is not None and crc32c(again) == place.crc32c:
                return again
            raise DataError("part_crc32c", f"{shard.path}: {name} has changed since the build")
        return data

    def _locate(self, position: int) -> tuple[OpenShard, int]:
        shard = self._shard(self._table.find(position), position)
        return shard, position - shard.first

    def _shard(self, number: int, position: int) -> OpenShard:
        """The number-th shard, which holds the sample at a position."""
        with self._lock:
            shard = self._open.get(number)
            if shard is not None:
                self._open.move_to_end(number)
                return shard
        # Not under the lock: a remote shard takes its time to open, and others are read meanwhile.
        entry, generation = self._entry(number, position), self.manifest.generation
        opened = OpenShard(self.folder, entry, self._files, compared=self._compared, generation=generation)
        with self._lock:
            shard = self._open.setdefault(number, opened)
            if shard is opened:
                self._open_bytes += opened.bytes
                while len(self._open) > OPEN_SHARDS and self._open_bytes > OPEN_BYTES:
                    self._open_bytes -= self._open.popitem(last=False)[1].bytes
        return shard

    def _fetch_indexes(self, shards: list[int]) -> None:
        entries = [self._table.shard(number) for number in shards if number not in self._open]
        self.folder.fetch([(entry.index, index_digest(entry)) for entry in entries if entry.index is not None])

    def _entry(self, number: int, position: int) -> ShardEntry:
        entry = self._table.shard(number)
        if not entry.first <= position < entry.first + entry.rows:
            raise DataError("table_damaged", f"{self._table.name}: shard {number} does not hold sample {position}")
        return entry

    def _by_shard(self, positions: np.ndarray, get: Callable[[OpenShard, np.ndarray], list[T]]) -> list[T]:
        """What `get` answers for rows of a shard, for positions in any order, each shard asked once."""
        positions = np.asarray(positions, np.int64)
        if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < len(self):
            raise IndexError(f"{self.path}: positions {positions.min()} to {positions.max()} of {len(self)}")
        order = np.argsort(positions, kind="stable")
        ordered = positions[order]
        numbers = np.searchsorted(self.shard_firsts, ordered, side="right") - 1
        bounds = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1)).tolist() if len(ordered) else [0]
        found: list[T] = []
        if self.folder.remote:
            self._fetch_indexes(numbers[bounds[:-1]].tolist())
        for start, stop in itertools.pairwise(bounds):
            shard, first = self._locate(int(ordered[start]))
            found.extend(get(shard, ordered[start:stop] - (int(ordered[start]) - first)))
        result = np.empty(len(found), object)
        result[order] = np.fromiter(found, object, len(found))
        listed: list[T] = result.tolist()
        return listed

    def _by_key(self) -> dict[str, int]:
        if self._positions is None:
            positions: dict[str, int] = {}
            for first in self.shard_firsts[:-1].tolist():
                shard, _ = self._locate(first)
                positions.update(zip(shard.index.keys(), itertools.count(first)))
            self._positions = positions
        return self._positions

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.uri, "integrity": self.integrity, "manifest": self._given, "cache": self.folder.cache}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(  # type: ignore[misc]
            state["path"], integrity=state["integrity"], manifest=state["manifest"], cache=state["cache"]
        )


def _media(shard: OpenShard, row: IndexRow) -> tuple[Media, ...]:
    parts, _ = _parts(shard, row, lambda part: b"{}" if part.kind == "meta" else None)
    return tuple(part for part in parts if isinstance(part, Media))


def _parts(
    shard: OpenShard, row: IndexRow, data: Callable[[Part], bytes | None]
) -> tuple[tuple[Text | Media, ...], dict[str, Any]]:
    """The typed parts of a row and its meta, given the bytes of each part that is wanted."""
    parts: list[Text | Media] = []
    meta: dict[str, Any] = {}
    for part in row.parts:
        if part.kind == "meta":
            meta = _meta(shard, row, part, data(part) or b"")
        elif part.kind == "stored":
            medium = parts[-1] if parts else None
            if not isinstance(medium, Media):
                raise DataError("index_damaged", f"{shard.index.path}: {row.key}: {part.name} follows no medium")
            parts[-1] = replace(medium, made=(*medium.made, part.to_stored(data(part))))
        else:
            try:
                parts.append(part.to_part(data(part)))
            except UnicodeDecodeError as error:  # a text, where nobody has compared its sum
                raise _changed(shard, row, part, error) from error
    return tuple(parts), meta


def _meta(shard: OpenShard, row: IndexRow, part: Part, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _changed(shard, row, part, error) from error
    if not isinstance(value, dict):
        raise _changed(shard, row, part, "no object")
    found = value if part.format == FOREIGN else value.get("meta", {})
    if not isinstance(found, dict):
        raise _changed(shard, row, part, "its meta is no object")
    return found


def _changed(shard: OpenShard, row: IndexRow, part: Part, what: object) -> DataError:
    return DataError("part_crc32c", f"{shard.path}: {row.key}.{part.name} has changed since the build: {what}")


def open_dataset(
    path: str | os.PathLike[str], *, integrity: Integrity = "crc32c", cache: Cache | None = None
) -> Dataset:
    """Open a finished dataset, in a folder or behind a URL, for random access by key or position; see `Dataset`."""
    return Dataset(path, integrity=integrity, cache=cache)
