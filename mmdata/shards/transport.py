"""Bytes of remote files through fsspec: ranges and whole files, exact, with time limits, tried again when it fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmdata.errors import DataError, RunError
from mmdata.shards.retry import patiently

REQUEST_SECONDS = 60.0
"""A request that takes longer has failed. File systems of fsspec that are not asynchronous keep their own limits."""
PIECE_BYTES = 8 << 20
"""Whole files come in requests of so many bytes: what a lost connection costs, and what is in memory."""
RETRIED_STATUS = (408, 425, 429)
"""Of the 4xx answers of HTTP those that say "later" (RFC 9110, 15.5; RFC 8470; RFC 6585); the others say "no"."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a remote file: its bytes, and what its server says to tell versions of it apart ("" where nothing)."""

    size: int
    version: str


def stat(uri: str) -> Facts:
    """Size and version. Raises DataError `shard_missing`, or RunError when the server keeps failing or tells no
    size."""
    info = patiently(lambda: _asked(uri, "info"), f"{uri}: size")
    if info.get("size") is None:
        raise RunError(f"{uri}: the server does not say how long it is; serve files with a Content-Length")
    version = next((str(info[name]) for name in ("ETag", "etag", "md5Hash", "Last-Modified") if info.get(name)), "")
    return Facts(int(info["size"]), version)


def fetch(uri: str, start: int, end: int) -> bytes:
    """Exactly the bytes from `start` to `end`. Raises DataError `shard_missing`, or `shard_cut` where the file ends
    before, and RunError when the server keeps failing."""
    parts: list[bytes] = []
    at = start
    while at < end:
        data = patiently(lambda: _range(uri, at, end), f"{uri}: bytes {at} to {end}")  # noqa: B023 called at once
        if not data:
            raise DataError("shard_cut", f"{uri}: ends at byte {at}, {end} expected")
        parts.append(data)
        at += len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def fetch_all(uri: str) -> bytes:
    """A whole file of any length that memory holds. Raises as `fetch` does."""
    data: bytes = patiently(lambda: _asked(uri, "cat"), f"{uri}: read")
    return data


def pieces(uri: str, size: int) -> Iterator[bytes]:
    """The whole file of `size` bytes, piece by piece in order. Raises as `fetch` does."""
    for start in range(0, size, PIECE_BYTES):
        yield fetch(uri, start, min(start + PIECE_BYTES, size))


def _range(uri: str, start: int, end: int) -> bytes:
    """One request. May be shorter than asked for; empty where the file ends before `start`."""
    data: bytes = _asked(uri, "cat", start, end)
    wanted = end - start
    if len(data) <= wanted:
        return data
    # A server that knows no ranges answers with the whole file.
    if len(data) < end:
        raise OSError(f"{len(data)} bytes came for {wanted}")
    return data[start:end]


def _asked(uri: str, what: str, start: int | None = None, end: int | None = None) -> Any:
    """One question to the file system. Raises OSError for what may go better the next time."""
    try:
        if what == "info":
            return _info(uri)
        return _cat(uri, start, end)
    except FileNotFoundError as error:
        raise DataError("shard_missing", f"{uri}: no such file") from error
    except OSError:
        raise
    except Exception as error:
        status = getattr(error, "status", None) or getattr(error, "code", None)
        if status == 410:
            raise DataError("shard_missing", f"{uri}: gone (HTTP status 410)") from error
        if status == 416:  # the range begins behind the end of the file
            return b""
        if isinstance(status, int) and 400 <= status < 500 and status not in RETRIED_STATUS:
            raise RunError(f"{uri}: refused with HTTP status {status}: {error}") from error
        if type(error).__module__ == "builtins":  # nothing that a network says: a bug
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error


def _cat(uri: str, start: int | None, end: int | None) -> bytes:
    system, path = _system(uri)
    if not system.async_impl:
        return bytes(system.cat_file(path, start=start, end=end))
    from fsspec.asyn import sync

    # A body that was compressed for the way has other offsets.
    headers = {"headers": {**system.kwargs.get("headers", {}), "Accept-Encoding": "identity"}} if _is_http(uri) else {}
    found = sync(system.loop, system._cat_file, path, start=start, end=end, timeout=REQUEST_SECONDS, **headers)
    return bytes(found)


def _info(uri: str) -> dict[str, Any]:
    system, path = _system(uri)
    if not system.async_impl:
        return dict(system.info(path))
    from fsspec.asyn import sync

    try:
        return dict(sync(system.loop, system._info, path, timeout=REQUEST_SECONDS))
    except FileNotFoundError:
        # fsspec's HTTP says this of every failure. A byte of the file is asked for in a way that tells them apart.
        _cat(uri, 0, 1)
        raise OSError(f"{uri}: the server does not tell its size") from None


_systems: dict[tuple[int, str], Any] = {}


def _system(uri: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it. The instance is the process's own: fsspec's do not survive a fork.
    It holds the connections, which all threads share."""
    import fsspec

    protocol = uri.partition("://")[0]
    if _is_http(uri):
        system = _systems.get((os.getpid(), protocol))
        if system is None:
            system = _systems[os.getpid(), protocol] = fsspec.filesystem(protocol)
        return system, uri
    system, path = fsspec.core.url_to_fs(uri)
    return system, path


def _is_http(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))
