"""One open shard: its bytes, its index, and the columns that are taken from it when they are first asked for."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from mmdata.errors import DataError
from mmdata.shards.columns import Interned, MediaFacts
from mmdata.shards.index import Index
from mmdata.shards.manifest import ShardEntry


class OpenShard:
    """A shard that many threads may read. `checked`: its index file is compared with the manifest's crc32c."""

    def __init__(self, folder: Path, entry: ShardEntry, *, checked: bool) -> None:
        assert entry.index is not None, entry
        assert entry.shard is not None, entry
        self.path = folder / entry.shard
        self.index = Index(folder / entry.index, crc32c=entry.index_crc32c if checked else None)
        if len(self.index) != entry.rows:
            raise DataError("index_rows", f"{self.index.path}: {len(self.index)} rows, the manifest has {entry.rows}")
        self._media: MediaFacts | None = None
        self._lock = threading.Lock()
        try:
            self._handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DataError("shard_missing", f"{self.path}: {error.strerror}") from error

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises DataError `shard_cut` where the file ends before, OSError where it fails."""
        data = os.pread(self._handle, size, offset)
        while len(data) < size:  # a short read of a regular file means its end, unless the file system is odd
            more = os.pread(self._handle, size - len(data), offset + len(data))
            if not more:
                raise DataError(
                    "shard_cut", f"{self.path}: ends at byte {offset + len(data)}, {offset + size} expected"
                )
            data += more
        return data

    def media(self, interned: Interned) -> MediaFacts:
        """The facts of its media, as columns."""
        with self._lock:
            if self._media is None:
                self._media = MediaFacts(self.index, interned)
            return self._media

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)
