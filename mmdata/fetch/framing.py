"""Where in the bytes of an HTTP/1 connection an answer's head ends and what it says, and where its body ends.

RFC 9112. What a sloppy server may write is read (bare line feeds, blanks before a colon, folded lines); where two
readings would give two bodies (lengths that differ, a length and chunks) the answer is refused: `bad_response`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

from mmdata.fetch.failure import FetchError

HEAD_BYTES = 1 << 18
"""Longest head: content policies of some sites have tens of kilobytes."""
_LINE_BYTES = 1 << 13  # Of a chunk's size with its extensions.

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(r"HTTP/\d\.(\d)[ \t]+([1-9]\d\d)(?:[ \t]+(.*))?")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LENGTH = re.compile(r"[0-9]{1,18}")
_NEVER = re.compile(r"[\0\r]")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_START = b"HTTP/"


class Head(NamedTuple):
    """`lasting`: the connection may serve another request. `length`: bytes of the body; None where it is `chunked` or
    goes up to the end of the connection."""

    status: int
    reason: str
    headers: CIMultiDictProxy[str]
    length: int | None
    chunked: bool
    lasting: bool


def split_head(data: bytes) -> tuple[bytes, bytes] | None:
    """The head of an answer and what follows it; None where more has to come. Raises FetchError `bad_response` for what
    is no HTTP, as soon as that can be told."""
    found = _BLANK_LINE.search(data)
    if not data.startswith(_START) and not _START.startswith(data):
        raise garbled(f"not HTTP: {data[:20]!r}")
    if (len(data) if found is None else found.start()) > HEAD_BYTES:
        raise garbled(f"a head of more than {HEAD_BYTES:,} bytes")
    return None if found is None else (data[: found.start()], data[found.end() :])


def parse_head(data: bytes) -> Head:
    """Raises FetchError `bad_response`.

    >>> head = parse_head(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nX-A: b")
    >>> head.status, head.reason, head.headers["x-a"], head.length, head.lasting
    (200, 'OK', 'b', 5, True)
    """
    first, *lines = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")
    told = _STATUS.fullmatch(first)
    if told is None or _NEVER.search(first):
        raise garbled(f"status line {first[:80]!r}")
    fields: list[tuple[str, str]] = []
    for line in lines:
        if line[0] in " \t" and fields:
            fields[-1] = (fields[-1][0], f"{fields[-1][1]} {line.strip()}")
            continue
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        if not colon or not _NAME.fullmatch(name) or _NEVER.search(value):
            raise garbled(f"header line {line[:80]!r}")
        fields.append((name, value.strip(" \t")))
    headers = CIMultiDictProxy(CIMultiDict(fields))
    status = int(told[2])
    coding = ",".join(headers.getall("Transfer-Encoding", ())).strip().lower()
    lengths = {value.strip() for field in headers.getall("Content-Length", ()) for value in field.split(",")}
    if len(lengths) > 1 or (lengths and coding) or coding not in ("", "chunked", "identity"):
        raise garbled(f"Content-Length {', '.join(sorted(lengths))!r}, Transfer-Encoding {coding[:80]!r}")
    said = next(iter(lengths), "0")
    if not _LENGTH.fullmatch(said):
        raise garbled(f"Content-Length {said[:80]!r}")
    bare = status < 200 or status in (204, 304)
    length = 0 if bare else int(said) if lengths else None
    options = {option.strip().lower() for field in headers.getall("Connection", ()) for option in field.split(",")}
    lasting = "close" not in options and (told[1] != "0" or "keep-alive" in options)
    chunked = coding == "chunked" and not bare
    return Head(status, told[3] or "", headers, length, chunked, lasting and (chunked or length is not None))


class Chunks:
    """A body in chunks (RFC 9112, 7.1), fed as it comes.

    >>> chunks = Chunks()
    >>> chunks.feed(b"3\\r\\nhel\\r"), chunks.feed(b"\\n2;x=y\\r\\nlo\\r\\n0\\r\\n\\r\\nmore"), chunks.rest
    ([b'hel'], [b'lo'], b'more')
    """

    def __init__(self) -> None:
        self._left = 0  # of the chunk
        self._line = b""  # so far, of one that has not ended
        self._expected = "size"  # or "gap", the end of line behind a chunk, or "trailer"
        self._trailer = 0
        self.complete = False
        self.rest = b""
        """What lies behind the body, once that is complete."""

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of the body in `data`. Raises FetchError `bad_response`."""
        pieces = []
        data = self._line + data
        self._line = b""
        while data and not self.complete:
            if self._left:
                pieces.append(data[: self._left])
                data = data[self._left :]
                self._left -= len(pieces[-1])
                continue
            line, end, after = data.partition(b"\n")
            if len(line) > _LINE_BYTES:
                raise garbled(f"a line of more than {_LINE_BYTES:,} bytes between chunks")
            if not end:
                self._line = line
                break
            data = after
            self._take(line.removesuffix(b"\r"))
        if self.complete:
            self.rest = data
        return pieces

    def _take(self, line: bytes) -> None:
        if self._expected == "size":
            told = _CHUNK.fullmatch(line)
            if told is None:
                raise garbled(f"size of a chunk {line[:80]!r}")
            self._left = int(told[1], 16)
            self._expected = "gap" if self._left else "trailer"
        elif self._expected == "gap":
            if line:
                raise garbled(f"behind a chunk {line[:80]!r}")
            self._expected = "size"
        else:
            self._trailer += len(line)
            if self._trailer > HEAD_BYTES:
                raise garbled(f"a trailer of more than {HEAD_BYTES:,} bytes")
            self.complete = not line


def garbled(detail: str) -> FetchError:
    return FetchError("bad_response", detail)
