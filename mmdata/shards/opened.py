"""One open shard: its bytes, its index, and the columns that are taken from it when they are first asked for."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from mmdata.errors import DataError, RunError
from mmdata.machine import open_files
from mmdata.native.calls import calls
from mmdata.shards import manifest as manifests
from mmdata.shards import raw, rows
from mmdata.shards.access import Source, local_path
from mmdata.shards.columns import Interned, MediaFacts
from mmdata.shards.folder import Folder
from mmdata.shards.index import Index
from mmdata.shards.local import LocalSource
from mmdata.shards.prefetch import Prefetcher
from mmdata.shards.raw import Again, OnePlaces, Raw, RawPlaces, Read
from mmdata.shards.remote import RemoteSource
from mmdata.shards.table import ShardEntry

_ALLOWED = open_files()[0]
OPEN_FILES = 1024 if _ALLOWED < 0 else max(64, min(1024, _ALLOWED // 8))
"""Shards of a dataset whose files are open at a time: many where the process may hold many, since in a global order
each sample lies in another one."""
ALONE = 1 << 14
"""Bytes that a shard takes beside those of its index, about."""
OWN = 4
"""Of so many bytes of a mapped index one is counted: the others are the page cache's, which all processes share."""
SINGLE = 16
"""Samples taken one by one from which on places are computed for a whole shard, as a sample costs half then."""
Files = deque["weakref.ref[OpenShard]"]
Compared = MutableMapping[str | Path, tuple[int, ...]]
"""Of each index file that was compared with its checksum, what tells whether it has been written since."""


class OpenShard:
    """A shard that many threads may read. Its index file is compared with the manifest's crc32c, whoever asks: Arrow
    follows offsets in it, and to have it look at them first takes longer.

    `files` are the shards of the dataset that have theirs open; beyond `OPEN_FILES` the first closes it again. An index
    that has been `compared` is not again when it is opened anew, unless it was written since: in a global order of more
    shards than stay open that is done for each sample."""

    def __init__(
        self, folder: Folder, entry: ShardEntry, files: Files, *, compared: Compared, generation: int = 0
    ) -> None:
        assert entry.index is not None, entry
        assert entry.shard is not None, entry
        self.path = folder.locate(entry.shard)
        self._table = rows.is_table(self.path)
        self.first = entry.first
        self._generation = generation
        self._folder = folder
        try:
            path = folder.file(entry.index, digest=index_digest(entry))
            self.index = Index(path, crc32c=entry.index_crc32c, compared=compared)
        except DataError as error:
            raise self._replaced() or error from None
        if len(self.index) != entry.rows:
            raise DataError("index_rows", f"{self.index.path}: {len(self.index)} rows, the manifest has {entry.rows}")
        self.bytes = self.index.bytes // (OWN if self.index.mapped else 1) + ALONE
        self._files = files
        self._media: MediaFacts | None = None
        self._one: OnePlaces | None = None
        self._lying: tuple[Any, ...] | None = None
        self._raw: RawPlaces | None = None
        self._singles = 0
        self._mapped: Source | None = None
        self._lock = threading.Lock()
        self._entry = entry
        self._source: Source | None = None
        self._counted = False
        """Whether it is among `files`."""

    @property
    def source(self) -> Source:
        """Its bytes. Opened when first asked for: who plans asks for the index only, and a shard that is missing must
        not stop it. Raises DataError `shard_missing`."""
        source = self._source
        if source is None or not self._counted:
            with self._lock:
                try:
                    source = self._source = self._source or self._opened()
                    if isinstance(source, LocalSource):
                        source.open()
                except DataError as error:
                    raise self._replaced() or error from None
            self._bound_files()
        return source

    def _opened(self) -> Source:
        entry, local = self._entry, local_path(self.path)
        if local is not None and not self._table:
            return LocalSource(local)
        return self._folder.source(entry.shard or "", size=entry.shard_bytes, digest=entry.shard_sha256)

    def _replaced(self) -> RunError | None:
        """Why a file is not there any more, if that is why. It stops a run: a shard that is damaged costs its samples,
        but of a dataset that has become another one nothing would be left."""
        try:
            now = manifests.read(self._folder.path).generation
        except DataError:
            return None
        if now == self._generation:
            return None
        return RunError(
            f"{self._folder.path}: compacted or changed since it was opened (generation {self._generation} -> {now}); "
            "open it again"
        )

    def _bound_files(self) -> None:
        self._counted = True
        self._files.append(weakref.ref(self))
        if len(self._files) > OPEN_FILES:
            try:  # which `contextlib.suppress` takes as long to say as all the rest does
                first = self._files.popleft()()
            except IndexError:  # other threads do the same
                return
            if first is not None:
                first._release()

    def _release(self) -> None:
        """Close its files until they are asked for again; whoever reads from them now has hold of them."""
        self._counted = False
        self._mapped = None
        if isinstance(self._source, LocalSource):
            self._source.release()
        else:
            self._source = None

    def read_ahead(self, ahead: Prefetcher | None) -> None:
        """Ask `ahead` first from now on, if the shard is remote."""
        with self._lock:
            if isinstance(self._source, RemoteSource):
                self._source.ahead = ahead

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises DataError `shard_cut` where the file ends before, RunError where it keeps
        failing."""
        return self.source.read(offset, size)

    def media(self, interned: Interned) -> MediaFacts:
        """The facts of its media, as columns."""
        with self._lock:
            if self._media is None:
                self._media = MediaFacts(self.index, interned)
            return self._media

    def raw(self) -> RawPlaces:
        """Where the parts of its samples lie."""
        if self._raw is not None:
            return self._raw
        with self._lock:
            if self._raw is None:
                self._raw = RawPlaces(self.index, together=not self._table)
            return self._raw

    def samples(self, rows: list[int], again: Again | None, *, view: bool) -> Iterator[Iterable[Raw]]:
        """The samples at these rows, as `RawPlaces.samples` gives them, one iterable after the other. Of a local tar
        compiled code takes them; what that finds strange, and what comes after it, is Python's."""
        at = 0
        if not view and isinstance(source := self.source, LocalSource) and (compiled := calls()) is not None:
            if self._lying is None:
                self._lying = self.index.lying()
            handle = source.open()  # held while it is read
            found = compiled.Samples(handle, handle.number, rows, self._lying, raw.KNOWN, raw.TOGETHER, raw.APART)
            del handle
            yield found if again is None else self._places().checked(rows, found, source.read, again)
            at = found.at
            del found
        read = self.view if view else self.source.read
        if at < len(rows) - 1:
            yield self.raw().samples(rows[at:], read, again)
        elif at < len(rows):
            yield (self._sample(rows[at], read, again),)

    def _places(self) -> OnePlaces:
        if self._one is None:  # two threads may both get here: either is sound
            self._one = OnePlaces(self.index, together=not self._table)
        return self._one

    def _sample(self, row: int, read: Read, again: Again | None) -> Raw:
        """Threads may miscount each other, which changes nothing else."""
        if self._raw is None and self._singles < SINGLE:
            self._singles += 1
            return self._places().sample(row, read, again)
        return self.raw().sample(row, read, again)

    def view(self, offset: int, size: int) -> memoryview:
        """As `read`, of a memory map where the shard is a local file."""
        mapped = self._mapped
        if mapped is None:  # two threads may both get here: either source is sound
            local = local_path(self.path)
            mapped = self.source if local is None or self._table else LocalSource(local, mapped=True)
            self._mapped = mapped
            self._bound_files()
        return mapped.view(offset, size)


def index_digest(entry: ShardEntry) -> str | None:
    """The digest of an index file as a cache takes it."""
    return None if entry.index_crc32c is None else f"crc32c:{entry.index_crc32c:08x}"
