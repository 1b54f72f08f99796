"""Paths of media as lines and tables have them: inside the folder that they are relative to, or refused."""

from __future__ import annotations

import base64
import binascii
import posixpath
from urllib.parse import unquote

from mmdata.errors import DataError


def names_local(uri: str) -> bool:
    """Whether a URL, or one of a chain of them (`zip://a.jpg::file:///b.zip`), leads to files of this machine.

    >>> names_local("file:///etc/passwd"), names_local("simplecache::/etc/passwd"), names_local("https://a.org/x::y")
    (True, True, False)
    """
    links = uri.split("::")
    if any(link.partition("://")[0].strip().lower() in ("file", "local") for link in links if "://" in link):
        return True
    return len(links) > 1 and "://" not in links[-1] and not links[0].lower().startswith(("http://", "https://"))


def inline(url: str) -> bytes:
    """The bytes that a `data:` URL holds. Raises DataError `bad_url` where they are not base64.

    >>> inline("data:text/plain;base64,YQ==")
    b'a'
    """
    head, _, body = url.partition(",")
    try:
        if not head.lower().endswith(";base64"):
            raise ValueError("only base64 is read")
        return base64.b64decode(unquote(body), validate=True)
    except (ValueError, binascii.Error) as error:
        raise DataError("bad_url", f"a data: URL: {error}") from error


def within(root: str, path: str) -> str:
    """The place of a medium: a URL as it is, a path below `root` (a folder or a URL without a slash at its end).

    Raises DataError `bad_url` for an empty path, `path_escape` for one that leads out, a `file:` URL among them: a
    table from elsewhere cannot name other files of ours. A path with a backslash, which is a separator elsewhere, is
    refused alike.

    >>> within("/data", "a/../b.jpg"), within("s3://x/y", "b.jpg"), within("/data", "https://example.org/b.jpg")
    ('/data/b.jpg', 's3://x/y/b.jpg', 'https://example.org/b.jpg')
    """
    if not path.strip():
        raise DataError("bad_url", "the path is empty")
    if "://" in path:
        if names_local(path):
            raise DataError("path_escape", f"{path[:200]!r} names a file of this machine")
        return path
    if "\\" in path:
        raise DataError("path_escape", f"{path[:200]!r}: a backslash is no separator here; write /")
    if "\0" in path:
        raise DataError("path_escape", f"{path[:200]!r} holds a zero byte")
    normal = posixpath.normpath(path)
    local = root.removeprefix("file://")
    inside = normal.startswith(f"{local.rstrip('/')}/") if normal.startswith("/") else normal.split("/")[0] != ".."
    if not inside:
        raise DataError("path_escape", f"{path[:200]!r} leads out of {root}")
    return normal if normal.startswith("/") else f"{root.rstrip('/')}/{normal}"
