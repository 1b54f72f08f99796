"""Receiving a body: within its limit, as declared and as it comes, compressed or not."""

from __future__ import annotations

import zlib

import aiohttp

from mmdata.fetch.exchange import Tally
from mmdata.fetch.failure import FetchError, transient

_GZIP_OR_ZLIB, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b"


async def read_body(response: aiohttp.ClientResponse, limit: int, tally: Tally, *, cut: bool = False) -> bytes:
    """The body of `response`, decompressed, at most `limit` bytes of it. The Content-Type is not looked at.

    Raises FetchError: `too_large` (at once if the length is declared), `decompression_bomb`,
    `content_encoding` (unknown or corrupt), `short_body`, `empty_body`. With `cut`, a longer body is cut off at
    `limit` instead, and an empty one is an answer.
    """
    declared = response.content_length
    if declared is not None and declared > limit and not cut:
        raise FetchError("too_large", f"{declared:,} bytes declared, {limit:,} allowed")
    inflate = _inflater(response)
    read = response.content.readany
    pieces: list[bytes] = []
    received = kept = 0
    while piece := await read():
        received += len(piece)
        tally.size += len(piece)
        if inflate is not None:
            if received > limit and not cut:
                raise FetchError("too_large", f"more than {limit:,} bytes, still compressed")
            piece = inflate.feed(piece, limit - kept + 1)
        pieces.append(piece)
        kept += len(piece)
        if kept > limit:
            if cut:
                break
            if inflate is not None:
                raise FetchError("decompression_bomb", f"{received:,} bytes become more than {limit:,}")
            raise FetchError("too_large", f"more than {limit:,} bytes")
    else:
        if inflate is not None and received and not inflate.complete:
            raise transient("short_body", f"compressed data end early, after {received:,} bytes")
    if not kept and not cut:
        raise FetchError("empty_body")
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return body[:limit] if cut else body


def _inflater(response: aiohttp.ClientResponse) -> Inflater | None:
    # We ask for identity; servers that compress all the same are answered, others than these not.
    encoding = ",".join(response.headers.getall("Content-Encoding", ())).strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return Inflater()
    raise FetchError("content_encoding", f"cannot decode {encoding[:80]!r}")


class Inflater:
    """Incremental gzip (also of several members), zlib, or raw deflate, which some servers call deflate.

    >>> inflater = Inflater()
    >>> inflater.feed(zlib.compress(b"abc"), room=2), inflater.complete
    (b'ab', False)
    """

    def __init__(self) -> None:
        self._head = b""
        self._stream: zlib._Decompress | None = None
        self.complete = False
        """Whether the compressed data have come to their own end."""

    def feed(self, data: bytes, room: int) -> bytes:
        """What `data` decompress to, at most `room` bytes (>= 1). Once a call has filled its room, the rest is lost.

        Raises FetchError `content_encoding` for corrupt data.
        """
        if self._stream is None:
            data = self._head = self._head + data
            if len(data) < 2:
                return b""
            self._stream = zlib.decompressobj(_GZIP_OR_ZLIB if _has_header(data) else _RAW)
        pieces: list[bytes] = []
        try:
            while data and room > 0:
                if self.complete:
                    if not _GZIP_MAGIC.startswith(data[:2]):
                        break  # Padding after the last member.
                    self._stream, self.complete = zlib.decompressobj(_GZIP_OR_ZLIB), False
                pieces.append(self._stream.decompress(data, room))
                room -= len(pieces[-1])
                self.complete = self._stream.eof
                data = self._stream.unused_data
        except zlib.error as error:
            raise FetchError("content_encoding", f"corrupt compressed data: {error}") from error
        return b"".join(pieces)


def _has_header(data: bytes) -> bool:
    zlib_header = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return zlib_header or data[:2] == _GZIP_MAGIC
