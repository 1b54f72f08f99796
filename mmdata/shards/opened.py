"""One open shard: its bytes, its index, and the columns that are taken from it when they are first asked for."""

from __future__ import annotations

import threading

from mmdata.errors import DataError
from mmdata.shards.columns import Interned, MediaFacts
from mmdata.shards.folder import Folder
from mmdata.shards.index import Index
from mmdata.shards.table import ShardEntry


class OpenShard:
    """A shard that many threads may read. `checked`: its index file is compared with the manifest's crc32c."""

    def __init__(self, folder: Folder, entry: ShardEntry, *, checked: bool) -> None:
        assert entry.index is not None, entry
        assert entry.shard is not None, entry
        self.path = folder.locate(entry.shard)
        self.first = entry.first
        self.index = Index(
            folder.file(entry.index, digest=index_digest(entry)), crc32c=entry.index_crc32c if checked else None
        )
        if len(self.index) != entry.rows:
            raise DataError("index_rows", f"{self.index.path}: {len(self.index)} rows, the manifest has {entry.rows}")
        self._media: MediaFacts | None = None
        self._lock = threading.Lock()
        self.source = folder.source(entry.shard, size=entry.shard_bytes, digest=entry.shard_sha256)

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


def index_digest(entry: ShardEntry) -> str | None:
    """The digest of an index file as a cache takes it."""
    return None if entry.index_crc32c is None else f"crc32c:{entry.index_crc32c:08x}"
