"""Bytes of a local file at any offset, for any number of threads."""

from __future__ import annotations

import mmap
import os

from mmdata.errors import DataError
from mmdata.shards.retry import patiently

_READ = os.O_RDONLY | os.O_CLOEXEC


class LocalSource:
    """An open local file. Reads are `pread`s: they share no file offset, so threads need no lock.

    A read returns exactly what was asked for. Short reads are continued, errors of the disk are tried again
    (`mmdata.shards.retry`) and then raise RunError; a file that ends too early raises DataError `shard_cut`. With
    `mapped`, `view` gives slices of a memory map, without a copy; a disk that fails under a map kills the process
    (SIGBUS), so it is for disks that one trusts. Raises DataError `shard_missing` where there is no such file.
    """

    __slots__ = ("_closed", "_handle", "_map", "_mapped", "uri")

    def __init__(self, path: str | os.PathLike[str], *, mapped: bool = False) -> None:
        self.uri = os.fspath(path)
        self._closed = False
        self._handle: Handle | None = None
        self.open()
        self._mapped = mapped and self.size > 0
        self._map: memoryview | None = None

    @property
    def size(self) -> int:
        """Bytes of the file, as it is now."""
        return os.fstat(self.open().number).st_size

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes from `offset` on."""
        handle = self._handle or self.open()
        try:
            data = os.pread(handle.number, size, offset)
        except OSError:
            data = b""
        if len(data) == size:
            return data
        buffer = bytearray(size)
        buffer[: len(data)] = data
        self._fill(handle, offset, memoryview(buffer), len(data))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a writable buffer of bytes (format `B`, contiguous) from `offset` on: a read without an allocation."""
        self._fill(self.open(), offset, buffer, 0)

    def view(self, offset: int, size: int) -> memoryview:
        """The `size` bytes from `offset` on, read-only; without a copy where the file is mapped."""
        if not self._mapped:
            return memoryview(self.read(offset, size))
        handle = self.open()
        mapped, end = self._map, offset + size
        if mapped is None:
            # Two threads may both get here; each map is sound, and the one that is not kept goes with its last view.
            mapped = self._map = memoryview(mmap.mmap(handle.number, 0, access=mmap.ACCESS_READ))
        # To touch a page behind the end of a file that was cut after it was mapped would kill the process.
        if end > (now := os.fstat(handle.number).st_size) or end > len(mapped):
            raise self._cut(min(len(mapped), now), end)
        return mapped[offset:end]

    def again(self, offset: int, size: int) -> bytes | None:
        """None: a local file is the origin itself, and has no other bytes to give."""
        return None

    def close(self) -> None:
        """Let go of the file. Reads under way in other threads end well; later ones raise ValueError."""
        self._closed = True
        self.release()

    def release(self) -> None:
        """Close the file until it is read again. Reads under way in other threads end well."""
        self._handle = None
        self._map = None

    def open(self) -> Handle:
        """Open the file again after `release`, if it is not open. Raises as the constructor does."""
        handle = self._handle
        if handle is None:
            if self._closed:
                raise ValueError(f"{self.uri}: read after close")
            try:
                handle = Handle(os.open(self.uri, _READ))
            except OSError:
                handle = self._opened_patiently()
            self._handle = handle
        return handle

    def _opened_patiently(self) -> Handle:
        try:
            return patiently(lambda: Handle(os.open(self.uri, _READ)), f"{self.uri}: open")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise DataError("shard_missing", f"{self.uri}: {error.strerror}") from error

    def _fill(self, handle: Handle, offset: int, buffer: memoryview, done: int) -> None:
        total = len(buffer)
        while done < total:
            at = done
            count = patiently(
                lambda: os.preadv(handle.number, [buffer[at:]], offset + at),  # noqa: B023 called before `at` changes
                f"{self.uri}: bytes {offset} to {offset + total}",
            )
            if not count:
                raise self._cut(offset + done, offset + total)
            done += count

    def _cut(self, end: int, expected: int) -> DataError:
        return DataError("shard_cut", f"{self.uri}: ends at byte {end}, {expected} expected")


class Handle:
    """A file descriptor that is closed when the last who uses it has let go: a number closed under a reader could
    become another file, whose bytes the reader would then get."""

    __slots__ = ("_close", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._close = os.close  # at the interpreter's end the module may have lost its names before

    def __del__(self) -> None:
        self._close(self.number)
