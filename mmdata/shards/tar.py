"""Plain ustar shards: written byte for byte the same for the same members, read by header walk."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmdata.errors import DataError
from mmdata.native.calls import calls

BLOCK = 512
SMALL = 4096
"""Bytes below which a member is written with its header in one piece: copying them costs less than two more calls."""
_ZERO = bytes(BLOCK)
# mode 0644, uid 0, gid 0 | size | mtime 0 | checksum (spaces while summing) | regular file | ustar
_MODE_IDS = b"0000644\x000000000\x000000000\x00"
_MTIME = b"00000000000\x00"
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + bytes(16) + bytes(155) + bytes(12)
_FIXED_SUM = sum(_MODE_IDS) + sum(_MTIME) + 8 * ord(" ") + sum(_TAIL)
MAX_SIZE = 8**11 - 1


def header(name: str, size: int) -> bytes:
    """The 512-byte ustar header of a regular file with fixed mode, owner and time (POSIX.1-1988, `ustar`).

    Raises DataError for a name over 100 bytes or a size of 8 GiB and more, which plain ustar cannot hold.

    >>> len(header("000000001.jpg", 1234))
    512
    """
    compiled = calls()
    if compiled is not None and (made := compiled.header(name, size)) is not None:
        return made  # type: ignore[no-any-return]
    raw = name.encode()
    if len(raw) > 100 or not raw:
        raise DataError("member_name", f"{name!r}: a member name takes 1 to 100 bytes")
    if size > MAX_SIZE:
        raise DataError("member_size", f"{name}: {size} bytes; a tar member holds less than 8 GiB")
    size_field = b"%011o\x00" % size
    # Adler-32 sums bytes faster than `sum`: its low half is 1 more than they come to, below its modulus of 65,521.
    checksum = _FIXED_SUM + (zlib.adler32(raw + size_field) & 0xFFFF) - 1
    return b"%b%b%b%b%06o\x00 %b" % (raw.ljust(100, b"\x00"), _MODE_IDS, size_field, _MTIME, checksum, _TAIL)


class Sink(Protocol):
    def write(self, data: bytes | memoryview, /) -> int: ...


class TarWriter:
    """Appends members to an open binary file and says where each one's data begins."""

    def __init__(self, file: Sink) -> None:
        self._file = file
        self.position = 0

    def add(self, name: str, data: bytes | memoryview) -> int:
        """Write one member; returns the offset of its data in the file."""
        size = len(data)
        head = header(name, size)
        padding = -size % BLOCK
        if size < SMALL:
            self._file.write(b"".join((head, data, _ZERO[:padding])))
        else:
            self._file.write(head)
            self._file.write(data)
            if padding:
                self._file.write(_ZERO[:padding])
        offset = self.position + BLOCK
        self.position = offset + size + padding
        return offset

    def finish(self) -> None:
        """The two zero blocks that end an archive."""
        self._file.write(_ZERO * 2)
        self.position += 2 * BLOCK


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    offset: int
    size: int


def walk(path: Path) -> Iterator[Member]:
    """The members of a shard that `TarWriter` wrote, by header walk.

    Raises DataError where anything differs from what `TarWriter` writes: a damaged header, a cut file,
    non-zero padding, bytes after the end.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        position = 0
        while True:
            head = file.read(BLOCK)
            if len(head) < BLOCK:
                raise DataError("shard_cut", f"{path}: ends at byte {position + len(head)} inside a header")
            if head == _ZERO:
                rest = file.read()
                if rest != _ZERO:
                    raise DataError("shard_end", f"{path}: byte {position}: not the two zero blocks that end a tar")
                return
            name = head[:100].rstrip(b"\x00").decode(errors="replace")
            try:
                length = int(head[124:135], 8)
            except ValueError:
                length = -1
            if length < 0 or not name or head != header(name, length):
                raise DataError("shard_header", f"{path}: damaged member header at byte {position}")
            offset = position + BLOCK
            position = offset + length + (-length % BLOCK)
            if position > size:
                raise DataError("shard_cut", f"{path}: {name} ends at byte {offset + length}, the file at {size}")
            yield Member(name, offset, length)
            file.seek(offset + length)
            if file.read(-length % BLOCK).strip(b"\x00"):
                raise DataError("shard_padding", f"{path}: padding after {name} is not zero")
