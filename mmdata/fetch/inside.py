"""Media that lie inside larger files, in tars and in datasets: read by place, from files that stay open for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict

from mmdata.checksum import crc32c
from mmdata.errors import DataError
from mmdata.fetch.failure import FetchError
from mmdata.shards.access import Source
from mmdata.types import Place

OPEN_FILES = 32


class Inside:
    """Reads by place, from any thread. At most `OPEN_FILES` files are held open."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Source] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, place: Place, limit: int) -> bytes:
        """The bytes at a place. Raises FetchError under the reason of what is wrong (`shard_cut`, `shard_missing`,
        `part_crc32c`, `too_large`, `empty_body`), and RunError when the storage keeps failing."""
        assert place.shard is not None, "a place in a dataset's own shard is read by the dataset"
        if place.size > limit:
            raise FetchError("too_large", f"{place.size:,} bytes, {limit:,} allowed; fetch.max_bytes says how many")
        if place.size == 0:
            raise FetchError("empty_body", f"{place.shard}: no bytes at {place.offset}")
        try:
            source = self._source(place.shard)
            data = source.read(place.offset, place.size)
            if place.crc32c is not None and crc32c(data) != place.crc32c:
                data = source.again(place.offset, place.size) or b""
                if crc32c(data) != place.crc32c:
                    raise DataError("part_crc32c", f"{place.shard}: bytes at {place.offset} have changed")
        except DataError as error:
            raise FetchError(error.reason, error.detail) from error
        return data

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            for source in self._open.values():
                source.close()
            self._open.clear()

    def _source(self, uri: str) -> Source:
        with self._lock:
            if (found := self._open.get(uri)) is not None:
                self._open.move_to_end(uri)
                return found
        from mmdata.shards.rows import open_shard  # here: it loads Arrow's readers of tables, and few builds need any

        opened = open_shard(uri)  # not under the lock: a remote file takes its time
        with self._lock:
            source = self._open.setdefault(uri, opened)
            if source is not opened:
                opened.close()
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)  # its last reader closes it
        return source
