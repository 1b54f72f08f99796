"""Tars that others have written: their members one after the other, in one pass that also takes the file's digest."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from mmdata.errors import DataError
from mmdata.native.calls import calls
from mmdata.shards.access import Source, local_path

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

BLOCK = 512
CHUNK = 8 << 20
GLANCE, FAR = 4 << 10, 1 << 20
"""Bytes that are read at once where most are passed over: of a local file, where copying a page more takes longer than
another call now and then, and where each request takes its time."""
TOGETHER = 1 << 18
"""Bytes of members that are told of at once, about: few enough to be in the processor's cache when they are summed."""
MOST_HEADER = 1 << 20
"""Bytes of an extended header: a name, in all honesty, is shorter."""
MOST_SUMS = 1 << 14
"""Checksums that are remembered: names of one length and sizes near to each other share a few hundred."""
_ZERO = bytes(BLOCK)
_SPACES = sum(b" " * 8)
_SIZE = re.compile(r"[0-9]{1,19}")
_REGULAR = (b"0", b"\x00", b"7")
_PLAIN_KINDS, _ENDS = b"0\x00", b" \x00"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


class ForeignMember(NamedTuple):
    """A regular file in a tar: where its bytes lie, and the bytes, unless they were passed over."""

    name: str
    offset: int
    size: int
    data: bytes | None


class TarPass:
    """One pass over a tar: `members`, and then `sha256` of the whole file.

    Another thread takes the digest of one chunk while the next is read: hashlib lets go of the interpreter.

    With `wanted`, which is asked for the name and size of each member, the bytes of others are passed over: of a tar of
    media little more than its headers is read then, and there is no `sha256`. `peek` gives what is wanted of those.
    """

    def __init__(self, source: Source, *, wanted: Callable[[str, int], bool] | None = None) -> None:
        self._source = source
        self._wanted = wanted
        self._chunk = CHUNK if wanted is None else GLANCE if local_path(source.uri) is not None else FAR
        self._at = 0
        self._buffer = b""
        self._base = 0  # in the file, of the buffer
        self._place = 0  # in the buffer, of what comes next
        self.shared: dict[str, str] = {}
        """What a global PAX header has said so far of all members."""
        self._plain: dict[bytes, int] = {}  # by the field of the checksum: what Adler-32 gives for a header that has it
        self._digest = hashlib.sha256()
        self._summing: Future[None] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def members(self) -> Iterator[ForeignMember]:
        """The regular members in their order, of ustar, PAX (POSIX.1-2001) and GNU tars alike; directories and links
        are passed over. As for other readers, a tar may end behind a member, without blocks of zeros. Raises DataError
        where the tar is damaged (`shard_header`, `shard_cut`), or made in a way that its members' bytes are not in one
        piece (`compressed_tar`, `sparse_member`)."""
        shared = self.shared
        own: dict[str, str] = {}
        name = None
        wanted, end, adler32 = self._wanted, self._source.size, zlib.adler32
        compiled = calls() if wanted is None else None
        while True:
            begins = self._at
            if compiled is not None and name is None and not shared and not own:
                found, behind = compiled.members(self._buffer, self._place, begins, end, TOGETHER, ForeignMember)
                if found:
                    self._at += behind - self._place
                    self._place = behind
                    yield from found
                    continue
            place = self._place + BLOCK
            if wanted is not None and place > len(self._buffer) and begins < end:
                self._buffer, self._base, place = (
                    self._source.read(begins, min(self._chunk, end - begins)),
                    begins,
                    BLOCK,
                )
                self._place = 0
            head = self._buffer[self._place : place]
            # Most headers are plain ones: a regular file with a name of its own, all ASCII, the size in octal digits.
            if (
                len(head) == BLOCK
                and head[156] in _PLAIN_KINDS
                and head[345] == 0
                and head[135] in _ENDS
                and head.isascii()
                and (digits := head[124:135]).isdigit()
                and (adler32(head) & 0xFFFF) == (self._plain.get(head[148:156]) or self._expected(head[148:156]))
                and name is None
                and not shared
                and not own
                and b"9" not in digits
                and b"8" not in digits
            ):
                size = int(digits, 8)
                plain = head[:100].partition(b"\0")[0].decode()
                padded = size + (-size % BLOCK)
                offset = begins + BLOCK
                if not plain.endswith("/") and offset + padded <= end:
                    if wanted is None or wanted(plain, size):
                        self._place, self._at = place, offset
                        data: bytes | None = self._body(size)
                    else:
                        data = None
                        self._place, self._at = min(place + padded, len(self._buffer)), offset + padded
                    yield ForeignMember(plain, offset, size, data)
                    continue
            if begins == end and begins and name is None and not own:
                return  # without the blocks of zeros that end a tar: what it holds is whole
            head = self._take(BLOCK, "a header")
            if head[0] == 0 and head == _ZERO:
                return
            if begins == 0 and (packer := _COMPRESSED.get(head[:2])):
                raise DataError(
                    "compressed_tar", f"{self._source.uri}: packed by {packer}; unpack it, to read by place"
                )
            kind, size = head[156:157], self._header(head, begins)
            if kind in (b"x", b"g", b"L", b"K"):
                if size > MOST_HEADER:
                    raise DataError("shard_header", f"{self._source.uri}: {size:,} bytes of names at byte {begins}")
                value = self._body(size)
                if kind == b"g":
                    shared.update(self._records(value, begins))
                elif kind == b"x":
                    own = self._records(value, begins)
                elif kind == b"L":
                    name = _text(value)
                continue
            if kind == b"S" or shared or own:
                extended = shared | own
                if kind == b"S" or any(key.startswith("GNU.sparse") for key in extended):
                    raise DataError(
                        "sparse_member", f"{self._source.uri}: byte {begins}: a sparse file; write it whole"
                    )
                if "size" in extended and _SIZE.fullmatch(extended["size"]):
                    size = int(extended["size"])
                name = extended.get("path") or name
                own = {}
            name = name or _name(head)
            offset = self._at
            regular = kind in _REGULAR and not name.endswith("/")
            taken = wanted is None or (regular and wanted(name, size))
            data = self._body(size) if taken else None
            if data is None:
                self._pass_over(size)
            if regular:
                yield ForeignMember(name, offset, size, data)
            name = None

    def peek(self, offset: int, size: int) -> bytes:
        """Bytes of the file from a member's `offset` on, most often without reading them again: what was read with its
        header is still at hand. Raises DataError `shard_cut`."""
        place = offset - self._base
        data = self._buffer[place : place + size] if place >= 0 else b""
        return data if len(data) == size else self._source.read(offset, size)

    def go(self, at: int) -> None:
        """Go on with the header at this byte: `members` that were read in another way are passed over."""
        assert self._wanted is not None, "of members that are passed over there is no digest"
        self._at = self._base = at
        self._buffer, self._place = b"", 0

    def sha256(self) -> str:
        """Of the whole file, what follows the last member included."""
        assert self._wanted is None, "of members that were passed over there is no digest"
        while self._at < self._source.size:
            self._take(min(CHUNK, self._source.size - self._at), "its end")
        self._summed()
        return self._digest.hexdigest()

    def _expected(self, held: bytes) -> int:
        """The low half of the Adler-32 of an ASCII header with this field for its checksum; 0, which no sum is, where
        the field holds none."""
        if len(self._plain) > MOST_SUMS:
            self._plain.clear()
        try:
            expected = _number(held) - _SPACES + sum(held) + 1
        except ValueError:
            return 0
        return self._plain.setdefault(held, max(expected, 0))

    def _header(self, head: bytes, begins: int) -> int:
        """The size that a header gives; its checksum must be right, summed as POSIX says or as old tars did: with the
        eight bytes of the checksum itself as spaces."""
        held = head[148:156]
        if head.isascii():  # the sum stays below the modulus of Adler-32, whose low half is 1 more
            total = signed = (zlib.adler32(head) & 0xFFFF) - 1 - sum(held) + _SPACES
        else:
            rest = head[:148] + b" " * 8 + head[156:]
            total, signed = sum(rest), sum(byte - 256 if byte > 127 else byte for byte in rest)
        try:
            said = _number(held)
            size = _number(head[124:136])
        except ValueError:
            said = size = -1
        if size < 0 or said not in (total, signed):
            raise DataError("shard_header", f"{self._source.uri}: damaged member header at byte {begins}")
        return size

    def _body(self, size: int) -> bytes:
        place, padded = self._place, size + (-size % BLOCK)
        if place + padded <= len(self._buffer):
            self._place = place + padded
            self._at += padded
            return self._buffer[place : place + size]
        data = self._take(size, "a member")
        if padding := -size % BLOCK:
            self._take(padding, "a member")
        return data

    def _pass_over(self, size: int) -> None:
        size += -size % BLOCK
        if self._at + size > self._source.size:
            raise DataError("shard_cut", f"{self._source.uri}: ends at byte {self._source.size} inside a member")
        self._place = min(self._place + size, len(self._buffer))
        self._at += size

    def _records(self, value: bytes, begins: int) -> dict[str, str]:
        """`length key=value\\n` records of a PAX header."""
        found: dict[str, str] = {}
        at = 0
        while at < len(value):
            space = value.find(b" ", at, at + 20)
            digits = value[at:space] if space > at else b""
            stop = at + int(digits) if digits.isdigit() else -1
            key, equals, text = value[space + 1 : stop - 1].partition(b"=")
            if not space < stop <= len(value) or not equals or value[stop - 1 : stop] != b"\n":
                raise DataError("shard_header", f"{self._source.uri}: damaged PAX header at byte {begins}")
            found[key.decode(errors="replace")] = text.decode(errors="surrogateescape")
            at = stop
        return found

    def _take(self, size: int, what: str) -> bytes:
        """The next bytes of the file, which enter its digest."""
        end = self._place + size
        if end <= len(self._buffer):
            data = self._buffer[self._place : end]
            self._place = end
            self._at += size
            return data
        pieces = []
        while size:
            if self._place == len(self._buffer):
                left = self._source.size - self._at
                if not left:
                    raise DataError("shard_cut", f"{self._source.uri}: ends at byte {self._at} inside {what}")
                self._buffer, self._place, self._base = b"", 0, self._at  # let go of before the next is read
                chunk = self._chunk if self._wanted is None else max(self._chunk, min(size, CHUNK))
                self._buffer = self._source.read(self._at, min(chunk, left))
                if self._wanted is None:
                    self._sum(self._buffer)
            piece = self._buffer[self._place : self._place + size]
            self._place += len(piece)
            self._at += len(piece)
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _sum(self, chunk: bytes) -> None:
        self._summed()
        if self._thread is None and len(chunk) < CHUNK:
            self._digest.update(chunk)  # all of a small file
            return
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor  # without sums there is no thread

            self._thread = ThreadPoolExecutor(1)
        self._summing = self._thread.submit(self._digest.update, chunk)

    def _summed(self) -> None:
        if self._summing is not None:
            self._summing.result()
            self._summing = None


def _number(field: bytes) -> int:
    """Octal digits, or the base-256 number of GNU tars for what they cannot hold. Raises ValueError."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.partition(b"\x00")[0].strip() or b"0", 8)


def _name(head: bytes) -> str:
    name = _text(head[:100])
    if head[345] == 0 or head[257:263] != b"ustar\x00":
        return name
    return f"{_text(head[345:500])}/{name}"


def _text(field: bytes) -> str:
    return field.partition(b"\x00")[0].decode(errors="surrogateescape")
