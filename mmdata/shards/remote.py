"""A remote file as a source: from the cache where it is there, else by ranges; whole once much of it is read."""

from __future__ import annotations

from mmdata.errors import DataError
from mmdata.shards import transport
from mmdata.shards.cache import Cache
from mmdata.shards.prefetch import WHOLE_SHARE, Prefetcher


class RemoteSource:
    """A file behind a URL. With a `cache`, what is there is read from there; without, every read is a request.

    `size` and `digest` (hex SHA-256) are what the manifest says; without a size the server is asked. What `ahead` was
    told to read, it hands over here. When so much was asked for by ranges that a reader who reads on would gain by it
    (`WHOLE_SHARE`), the whole file is downloaded into the cache. Safe to use from several threads.
    """

    def __init__(
        self,
        uri: str,
        *,
        cache: Cache | None = None,
        size: int | None = None,
        digest: str | None = None,
        ahead: Prefetcher | None = None,
    ) -> None:
        if size is None:
            facts = transport.stat(uri)
            size, digest = facts.size, digest or facts.version
        self.uri = uri
        self.size = size
        self.digest = digest
        self.ahead = ahead
        self._cache = cache
        self._path = None if cache is None else cache.path(uri, size, digest)
        self._asked = 0
        self._closed = False

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes from `offset` on. Raises DataError `shard_missing` or `shard_cut`, RunError."""
        if self._closed:
            raise ValueError(f"{self.uri}: read after close")
        data = None if self.ahead is None else self.ahead.take((self.uri, offset, size))
        return self.fetch(offset, size) if data is None else data

    def fetch(self, offset: int, size: int) -> bytes:
        """As `read`, past what is read ahead: from the cache, or by a request."""
        if offset + size > self.size:
            raise DataError("shard_cut", f"{self.uri}: ends at byte {self.size}, {offset + size} expected")
        data = self._cached(offset, size)
        if data is None and self._cache is not None:
            self._asked += size
            if self._asked >= WHOLE_SHARE * self.size:
                self._asked = 0  # where there is no room, it is tried again after as much
                if self.keep():
                    data = self._cached(offset, size)
        return transport.fetch(self.uri, offset, offset + size) if data is None else data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a writable buffer of bytes from `offset` on."""
        buffer[:] = self.read(offset, len(buffer))

    def view(self, offset: int, size: int) -> memoryview:
        """The same bytes, read-only."""
        return memoryview(self.read(offset, size))

    def again(self, offset: int, size: int) -> bytes | None:
        """The bytes as the origin has them now, past the cache; a cached file that has others is thrown away."""
        held = self._cached(offset, size)
        data = transport.fetch(self.uri, offset, offset + size)
        if held is not None and held != data and self._cache is not None and self._path is not None:
            self._cache.throw_away(self._path, f"bytes {offset} to {offset + size} are not those of {self.uri}")
        return data

    def keep(self) -> bool:
        """Have the whole file in the cache, if there is one and it has room; whether it is there. A file that is
        damaged as a whole is not kept: its pieces are verified one by one, and most may be sound."""
        if self._cache is None:
            return False
        try:
            return self._cache.ensure(self.uri, self.size, self.digest) is not None
        except DataError:
            self._cache, self._path = None, None
            return False

    def close(self) -> None:
        """Later reads raise ValueError. The connections are shared, and stay."""
        self._closed = True

    def _cached(self, offset: int, size: int) -> bytes | None:
        cache, path = self._cache, self._path
        return None if cache is None or path is None else cache.read(path, self.size, offset, size)
