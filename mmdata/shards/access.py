"""Where the bytes of a dataset come from: one way to read files, be they local or behind any URL that fsspec knows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from mmdata.errors import DataError
from mmdata.shards.local import LocalSource

if TYPE_CHECKING:
    from mmdata.shards.cache import Cache
    from mmdata.shards.prefetch import Prefetcher

TABLES = (".parquet", ".arrow")
"""How the names of tables of media end."""


class Source(Protocol):
    """One file, local or remote, that any thread may read.

    A read returns exactly the bytes asked for. Otherwise it raises DataError (`shard_missing`, `shard_cut`), or
    RunError when the storage keeps failing after it was tried again: that is nobody's data.
    """

    uri: str

    @property
    def size(self) -> int:
        """Bytes of the file."""

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes from `offset` on."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a writable buffer of bytes (format `B`, contiguous) from `offset` on."""

    def view(self, offset: int, size: int) -> memoryview:
        """The same bytes, read-only, without a copy where the file is mapped."""

    def again(self, offset: int, size: int) -> bytes | None:
        """For bytes that the caller has found wrong: what the origin itself says, past every cache; None where what
        was read came from the origin. A cached file that says otherwise than its origin is thrown away."""

    def close(self) -> None:
        """Let go of the file; later reads raise ValueError."""


def open_source(
    uri: str | os.PathLike[str],
    *,
    cache: Cache | None = None,
    size: int | None = None,
    digest: str | None = None,
    ahead: Prefetcher | None = None,
    mapped: bool = False,
) -> Source:
    """Open a file for reading at any offset: a local path, `file://` or any URL that fsspec knows.

    For remote files: `cache` keeps those of which much is read; `size` in bytes, where it is known, saves a question
    to the server, and `digest` (hex SHA-256) lets what is cached be verified; `ahead` is asked first for what it was
    told to read. `mapped` is for local files: their views are slices of a memory map. Raises DataError `shard_missing`
    where there is no such local file, or when the server is asked and says so.
    """
    local = local_path(uri)
    if local is not None:
        return LocalSource(local, mapped=mapped)
    from mmdata.shards.remote import RemoteSource

    return RemoteSource(str(uri), cache=cache, size=size, digest=digest, ahead=ahead)


def local_path(uri: str | os.PathLike[str]) -> str | None:
    """The local path that is meant, or None for a remote URL.

    >>> local_path("/data/a.tar"), local_path("file:///data/a.tar"), local_path("s3://bucket/a.tar")
    ('/data/a.tar', '/data/a.tar', None)
    """
    text = os.fspath(uri)
    if text.startswith("file://"):
        return text.removeprefix("file://")
    return None if "://" in text else text


def is_table(name: str) -> bool:
    """Whether the name of a shard is that of a table, and not of a tar.

    >>> is_table("s3://b/train-0.parquet?v=1"), is_table("a/0.tar")
    (True, False)
    """
    return name.partition("?")[0].endswith(TABLES)


def join(folder: str | os.PathLike[str], name: str) -> str:
    """The file `name` (relative, with `/`) of a local folder or of a URL, whose query stays at its end.

    >>> join("https://host/data/?token=1", "shards/0.tar")
    'https://host/data/shards/0.tar?token=1'
    >>> join("/data", "shards/0.tar")
    '/data/shards/0.tar'
    """
    local = local_path(folder)
    if local is not None:
        return os.path.join(local, name)
    head, mark, query = os.fspath(folder).partition("?")
    return f"{head.rstrip('/')}/{name}{mark}{query}"


def read_file(uri: str | os.PathLike[str]) -> bytes:
    """The bytes of a small file, never from a cache. Raises FileNotFoundError where there is none, OSError for a local
    file that cannot be read, and RunError when a server keeps failing."""
    local = local_path(uri)
    if local is not None:
        with open(local, "rb") as file:
            return file.read()
    from mmdata.shards import transport

    try:
        return transport.fetch_all(os.fspath(uri))
    except DataError as error:
        raise FileNotFoundError(str(error)) from error
