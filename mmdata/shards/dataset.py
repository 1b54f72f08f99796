"""Random access to a built dataset, by key or position, through its index."""

from __future__ import annotations

import bisect
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import crc32c

from mmdata.errors import DataError
from mmdata.shards import manifest as manifests
from mmdata.shards.index import Index, IndexRow
from mmdata.types import Media, Origin, Place, Ref, Sample, Text

Integrity = Literal["crc32c", "off"]
OPEN_SHARDS = 64


class _Shard:
    """One open shard: its index and a file handle that many threads may `pread`."""

    def __init__(self, folder: Path, entry: manifests.ShardEntry, integrity: Integrity) -> None:
        assert entry.index is not None, entry
        assert entry.shard is not None, entry
        self.path = folder / entry.shard
        self.index = Index(folder / entry.index, crc32c=entry.index_crc32c if integrity == "crc32c" else None)
        if len(self.index) != entry.rows:
            raise DataError("index_rows", f"{self.index.path}: {len(self.index)} rows, the manifest has {entry.rows}")
        try:
            self._handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DataError("shard_missing", f"{self.path}: {error.strerror}") from error

    def read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._handle, size, offset)
        while len(data) < size:  # a short read of a regular file means its end, unless the file system is odd
            more = os.pread(self._handle, size - len(data), offset + len(data))
            if not more:
                raise DataError(
                    "shard_cut", f"{self.path}: ends at byte {offset + len(data)}, {offset + size} expected"
                )
            data += more
        return data

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


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
        self._open: OrderedDict[int, _Shard] = OrderedDict()
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

    def row(self, position: int) -> IndexRow:
        """The index row at a position: facts and places, no media read."""
        shard, at = self._locate(position)
        return shard.index.row(at, check=self.integrity == "crc32c")

    def sample(self, position: int, *, media: bool = True, stored: bool = False) -> Sample:
        """The sample at a position, its bytes verified. With `media=False` media are not read: their parts carry
        facts and no data, but their place, for `read`. What views made of media is read with `stored=True` only."""
        shard, at = self._locate(position)
        row = shard.index.row(at, check=self.integrity == "crc32c")
        parts: list[Text | Media] = []
        meta = {}
        for part in row.parts:
            wanted = stored if part.kind == "stored" else media or part.kind in ("text", "meta")
            data = self._read(shard, f"{row.key}.{part.name}", part.place) if wanted and part.place else None
            if part.kind == "meta":
                meta = json.loads(data or b"").get("meta", {})
            elif part.kind == "stored":
                medium = parts[-1] if parts else None
                if not isinstance(medium, Media):
                    raise DataError("index_damaged", f"{shard.index.path}: {row.key}: {part.name} follows no medium")
                parts[-1] = replace(medium, made=(*medium.made, part.to_stored(data)))
            else:
                parts.append(part.to_part(data))
        return Sample(key=row.key, parts=tuple(parts), meta=meta, origin=Origin(uri=row.origin, row=row.origin_row))

    def read(self, position: int, place: Place) -> bytes:
        """The verified bytes of a medium (its `place`), or of what a view made of it, of the sample at a position."""
        shard, at = self._locate(position)
        return self._read(shard, f"row {at}", place)

    def _read(self, shard: _Shard, name: str, place: Place) -> bytes:
        data = shard.read(place.offset, place.size)
        if self.integrity == "crc32c" and crc32c.crc32c(data) != place.crc32c:
            raise DataError("part_crc32c", f"{shard.path}: {name} has changed since the build")
        return data

    def _locate(self, position: int) -> tuple[_Shard, int]:
        number = bisect.bisect_right(self._firsts, position) - 1
        with self._lock:
            shard = self._open.get(number)
            if shard is None:
                shard = self._open[number] = _Shard(self.path, self._entries[number], self.integrity)
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(number)
        return shard, position - self._firsts[number]

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


def open_dataset(path: str | os.PathLike[str], *, integrity: Integrity = "crc32c") -> Dataset:
    """Open a finished dataset for random access by key or position; see `Dataset`."""
    return Dataset(path, integrity=integrity)
