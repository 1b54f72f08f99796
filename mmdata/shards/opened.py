"""One open shard: its bytes, its index, and the columns that are taken from it when they are first asked for."""

from __future__ import annotations

import threading
from collections import deque

from mmdata.errors import DataError, RunError
from mmdata.shards import manifest as manifests
from mmdata.shards import rows
from mmdata.shards.access import Source, local_path
from mmdata.shards.columns import Interned, MediaFacts
from mmdata.shards.folder import Folder
from mmdata.shards.index import Index
from mmdata.shards.local import LocalSource
from mmdata.shards.prefetch import Prefetcher
from mmdata.shards.raw import RawPlaces
from mmdata.shards.remote import RemoteSource
from mmdata.shards.table import ShardEntry

OPEN_FILES = 64
"""Shards of a dataset whose files are open at a time."""
ALONE = 1 << 14
"""Bytes that a shard takes beside those of its index, about."""


class OpenShard:
    """A shard that many threads may read. Its index file is compared with the manifest's crc32c, whoever asks: Arrow
    follows offsets in it, and to have it look at them first takes longer.

    `files` are the shards of the dataset that have theirs open; beyond `OPEN_FILES` the first closes it again."""

    def __init__(self, folder: Folder, entry: ShardEntry, files: deque[OpenShard], *, generation: int = 0) -> None:
        assert entry.index is not None, entry
        assert entry.shard is not None, entry
        self.path = folder.locate(entry.shard)
        self._table = rows.is_table(self.path)
        self.first = entry.first
        self._generation = generation
        self._folder = folder
        try:
            self.index = Index(folder.file(entry.index, digest=index_digest(entry)), crc32c=entry.index_crc32c)
        except DataError as error:
            raise self._replaced() or error from None
        if len(self.index) != entry.rows:
            raise DataError("index_rows", f"{self.index.path}: {len(self.index)} rows, the manifest has {entry.rows}")
        self.bytes = self.index.bytes + ALONE
        self._files = files
        self._media: MediaFacts | None = None
        self._raw: RawPlaces | None = None
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
        self._files.append(self)
        if len(self._files) > OPEN_FILES:
            try:  # which `contextlib.suppress` takes as long to say as all the rest does
                self._files.popleft()._release()
            except IndexError:  # other threads do the same
                return

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
