"""Reading a file from a disk or an object store, whole and within a limit. Blocking: call it in a thread."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from mmdata.fetch.failure import FetchError, transient

STORES = frozenset({"file", "local", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"})
"""Protocols whose URLs name a bucket or a path. All others can name a host, past the judgement of addresses,
or other URLs, and are read only where private addresses are allowed too."""


_NO_FILES = ("data", "javascript", "mailto", "about", "blob")


def check_protocol(uri: str, *, any_protocol: bool) -> None:
    """Raise FetchError `bad_scheme` unless `uri` is a local path or a URL of one of STORES."""
    protocol, separator, _ = uri.partition("://")
    if separator and ("::" in uri or protocol not in STORES) and not any_protocol:
        raise FetchError("bad_scheme", f"{protocol[:40]!r} URLs are not read")
    if uri.partition(":")[0].lower() in _NO_FILES:
        raise FetchError("bad_scheme", f"{uri.partition(':')[0]!r} URLs name no file")


def read_file(uri: str, limit: int) -> bytes:
    """The bytes at a local path or fsspec URL.

    Raises FetchError: `not_found`, `too_large`, `empty_body`, `bad_scheme` (nothing installed reads it), and as
    transient `read_error` and `short_body`.
    """
    try:
        data = _read_store(uri, limit) if "://" in uri else _read_local(uri, limit)
    except FetchError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise FetchError("not_found", str(error)[:300]) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no file can have such a name
            raise FetchError("not_found", str(error)[:300]) from error
        raise transient("read_error", str(error)[:300]) from error
    if not data:
        raise FetchError("empty_body")
    return data


def _read_local(path: str, limit: int) -> bytes:
    try:
        info = os.stat(path)
    except ValueError as error:  # A zero byte in the name.
        raise FetchError("not_found", str(error)) from error
    if not stat.S_ISREG(info.st_mode):  # A pipe or device might never end.
        raise FetchError("not_found", f"{path} is not a file")
    _check(info.st_size, limit)
    with open(path, "rb") as file:
        return _checked(file.read(limit + 1), info.st_size, limit)


def _read_store(uri: str, limit: int) -> bytes:
    import fsspec  # here, since few builds read files and all pay for imports
    from fsspec.implementations.local import LocalFileSystem

    try:
        system, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise FetchError("bad_scheme", str(error)[:300]) from error
    if isinstance(system, LocalFileSystem):
        return _read_local(path, limit)
    try:
        info: dict[str, Any] = system.info(path)
        if info.get("type") == "directory":
            raise FetchError("not_found", f"{uri} is not a file")
        size = info.get("size")
        _check(size or 0, limit)
        # A range, so that a file that grows meanwhile stays within the limit; an empty file has none.
        data: bytes = b"" if size == 0 else system.cat_file(path, start=0, end=limit + 1)
    except (FetchError, OSError):
        raise
    except Exception as error:  # Each store's driver has its own family of exceptions, which share no base.
        raise transient("read_error", f"{type(error).__name__}: {error}"[:300]) from error
    return _checked(data, size or 0, limit)


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise FetchError("too_large", f"{size:,} bytes, {limit:,} allowed")


def _checked(data: bytes, size: int, limit: int) -> bytes:
    _check(len(data), limit)
    if len(data) < size:
        raise transient("short_body", f"{len(data):,} of {size:,} bytes")
    return data
