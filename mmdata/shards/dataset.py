"""Random access to a built dataset, by key or position, through its index."""

from __future__ import annotations

import bisect
import itertools
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import crc32c
import numpy as np

from mmdata.errors import DataError
from mmdata.shards import manifest as manifests
from mmdata.shards.columns import Interned
from mmdata.shards.index import IndexRow, Part
from mmdata.shards.opened import OpenShard
from mmdata.types import Media, Origin, Place, Ref, Sample, Text

Integrity = Literal["crc32c", "off"]
OPEN_SHARDS = 64

T = TypeVar("T")


class Dataset:
    """A finished dataset. `dataset[7]` and `dataset["000000007"]` are Samples with verified bytes.

    Positions count kept samples in input order, 0 to len-1. With `integrity="crc32c"` (the default) every
    byte and fact of a sample has been checked before it is returned; `"off"` skips that.
    Opening reads the manifest only; index and shard files are opened when first needed, at most
    `OPEN_SHARDS` at a time. Safe to use from several threads.
    A build that has not published its manifest yet passes it as `manifest`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        integrity: Integrity = "crc32c",
        manifest: manifests.Manifest | None = None,
    ) -> None:
        self.path = Path(path)
        self.integrity = integrity
        if manifest is None and (self.path / ".build" / "publish.json").exists():
            raise DataError(
                "publish_interrupted",
                f"{self.path}: a `--retry` was interrupted while publishing; run it again to finish",
            )
        self.manifest = manifests.read(self.path) if manifest is None else manifest
        self._given = manifest
        self._entries = [entry for entry in self.manifest.shards if entry.rows]
        self._firsts = [entry.first for entry in self._entries]
        self.shard_rows = np.array([entry.rows for entry in self._entries], np.int64)
        """Samples of each shard that has any, in order: int64 [S]."""
        self.shard_firsts = np.concatenate([[0], self.shard_rows.cumsum()]).astype(np.int64)
        """The first position of each of these shards, and at the end the number of samples: int64 [S + 1]."""
        self._interned: Interned = {}
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._positions: dict[str, int] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.manifest.samples

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    def __contains__(self, key: object) -> bool:
        return key in self._by_key()

    def keys(self) -> list[str]:
        """All keys, in order of position."""
        return list(self._by_key())

    def __getitem__(self, at: int | str) -> Sample:
        """The sample at a position or under a key. Raises IndexError, KeyError, or DataError for damage."""
        return self.sample(self.position(at))

    def position(self, at: int | str) -> int:
        """The position of a key, or a (possibly negative) position made non-negative."""
        if isinstance(at, str):
            try:
                return self._by_key()[at]
            except KeyError:
                raise KeyError(f"{self.path} has no key {at!r}") from None
        position = at + len(self) if at < 0 else at
        if not 0 <= position < len(self):
            raise IndexError(f"{self.path}: position {at} of {len(self)}")
        return position

    def ref(self, position: int) -> Ref:
        """The location of a position: unit number of its shard, and row in it."""
        number = bisect.bisect_right(self._firsts, position) - 1
        return Ref(dataset=str(self.path), shard=self._entries[number].unit, row=position - self._firsts[number])

    def keys_at(self, positions: np.ndarray) -> list[str]:
        """The keys of samples at positions (int64 [N], in any order, none negative), shard by shard."""
        return self._by_shard(positions, lambda shard, rows: shard.index.keys(rows))

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
            wanted = stored if part.kind == "stored" else media or part.kind in ("text", "meta")
            return self._read(shard, f"{row.key}.{part.name}", part.place) if wanted and part.place else None

        parts, meta = _parts(shard, row, data)
        return Sample(key=row.key, parts=parts, meta=meta, origin=Origin(uri=row.origin, row=row.origin_row))

    def read(self, position: int, place: Place) -> bytes:
        """The verified bytes of a medium (its `place`), or of what a view made of it, of the sample at a position."""
        shard, at = self._locate(position)
        return self._read(shard, f"row {at}", place)

    def _read(self, shard: OpenShard, name: str, place: Place) -> bytes:
        data = shard.read(place.offset, place.size)
        if self.integrity == "crc32c" and crc32c.crc32c(data) != place.crc32c:
            raise DataError("part_crc32c", f"{shard.path}: {name} has changed since the build")
        return data

    def _locate(self, position: int) -> tuple[OpenShard, int]:
        number = bisect.bisect_right(self._firsts, position) - 1
        with self._lock:
            shard = self._open.get(number)
            if shard is None:
                shard = self._open[number] = OpenShard(
                    self.path, self._entries[number], checked=self.integrity == "crc32c"
                )
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(number)
        return shard, position - self._firsts[number]

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
            for number, first in enumerate(self._firsts):
                shard, _ = self._locate(first)
                for at, key in enumerate(shard.index.keys()):
                    positions[key] = self._firsts[number] + at
            self._positions = positions
        return self._positions

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "integrity": self.integrity, "manifest": self._given}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["path"], integrity=state["integrity"], manifest=state["manifest"])  # type: ignore


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
            meta = json.loads(data(part) or b"").get("meta", {})
        elif part.kind == "stored":
            medium = parts[-1] if parts else None
            if not isinstance(medium, Media):
                raise DataError("index_damaged", f"{shard.index.path}: {row.key}: {part.name} follows no medium")
            parts[-1] = replace(medium, made=(*medium.made, part.to_stored(data(part))))
        else:
            parts.append(part.to_part(data(part)))
    return tuple(parts), meta


def open_dataset(path: str | os.PathLike[str], *, integrity: Integrity = "crc32c") -> Dataset:
    """Open a finished dataset for random access by key or position; see `Dataset`."""
    return Dataset(path, integrity=integrity)
