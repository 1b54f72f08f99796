"""Room in a folder of bounded size: taken before it is used, made by evicting, shared by processes through file locks.

    FOLDER/lock             held (flock) for the instant in which room is taken, made or filled; dies with its holder
    FOLDER/<name>           a whole file; its modification time says when it was last used; pinned by a shared lock
    FOLDER/<name>.part      one being written, of its full length from the start, locked by who writes it

The lengths of all these never sum to more than the limit. What a killed process left half done is a `.part` that
nobody locks; whoever takes room next removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mmdata.shards.local import Handle

PART = ".part"
NAME = re.compile(r"[0-9a-f]{40}(\.part)?")
"""Names that the cache gives. Other files of the folder are not counted, and never touched."""
LOCK_SECONDS = 60.0
"""So long the folder's lock may be held by others: it is held for milliseconds, unless a process was stopped in it."""
POLL_SECONDS = 0.002
PINNED = 64
"""Files that this process keeps from being evicted: the last so many that it asked for,"""
PINNED_AT_LEAST = 4
"""or, when there is no room otherwise, the last so many."""

Files = dict[str, tuple[int, int]]


class Room:
    """At most `limit` bytes of files in `folder`, which must exist. Methods raise OSError when the disk does."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._pins: OrderedDict[str, Handle] = OrderedDict()
        with self._locked():
            self._remove_dead(self._files())

    def used(self) -> int:
        """Bytes that whole and half files take, room that is taken and not yet filled included."""
        with self._locked():
            return sum(size for size, _ in self._files().values())

    def take(self, name: str, size: int) -> Handle | Literal["busy", "full"]:
        """A locked file of `size` bytes to fill, unless another is filling it (or has just done so), or there is no
        room. It must go to `fill` or `give_back`."""
        part = self.folder / (name + PART)
        with self._locked():
            files = self._files()
            self._remove_dead(files)
            if name in files or part.name in files:
                return "busy"
            if not self._make(files, size):
                return "full"
            handle = Handle(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
            try:
                fcntl.flock(handle.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(handle.number, size)
            except OSError:
                part.unlink()
                raise
            return handle

    def fill(self, name: str, handle: Handle) -> Path:
        """Give a file that is complete its name, so that others see it."""
        path = self.folder / name
        os.fdatasync(handle.number)
        # Under the lock, for who counts meanwhile could see it under neither name.
        with self._locked():
            os.rename(self.folder / (name + PART), path)
        # Not left to the closing: a process forked meanwhile has the descriptor too, and would hold the lock.
        fcntl.flock(handle.number, fcntl.LOCK_UN)
        return path

    def give_back(self, name: str) -> None:
        """Give room back that was taken and could not be filled."""
        (self.folder / (name + PART)).unlink(missing_ok=True)

    def pin(self, name: str) -> bool:
        """Keep a file from being evicted by any process; False when that has happened already."""
        with contextlib.suppress(FileNotFoundError):
            handle = Handle(os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC))
            with contextlib.suppress(BlockingIOError):  # being evicted, or about to be named
                fcntl.flock(handle.number, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.fstat(handle.number).st_nlink:
                    self.unpin(name)  # an older pin of it: the new one holds already
                    self._pins[name] = handle
                    while len(self._pins) > PINNED:
                        self._unpin_oldest()
                    return True
        return False

    def unpin(self, name: str) -> None:
        """Let a file be evicted, if it was pinned."""
        if (handle := self._pins.pop(name, None)) is not None:
            fcntl.flock(handle.number, fcntl.LOCK_UN)

    def _unpin_oldest(self) -> None:
        with contextlib.suppress(KeyError):  # another thread was faster
            fcntl.flock(self._pins.popitem(last=False)[1].number, fcntl.LOCK_UN)

    def _make(self, files: Files, size: int) -> bool:
        """Evict what was used least recently until `size` more bytes fit: never what others have pinned, and what is
        pinned here only when nothing else is left."""
        used = sum(length for length, _ in files.values())
        if size > self.limit:
            return False
        while used + size > self.limit:
            for name in sorted(files, key=lambda name: files[name][1]):
                if not name.endswith(PART) and self._remove(name):
                    used -= files.pop(name)[0]
                    if used + size <= self.limit:
                        return True
            if len(self._pins) <= PINNED_AT_LEAST:
                return False
            self._unpin_oldest()
        return True

    def _remove_dead(self, files: Files) -> None:
        """Remove half files whose writer has died, and with it its lock."""
        for name in [name for name in files if name.endswith(PART)]:
            if self._remove(name):
                files.pop(name)

    def _remove(self, name: str) -> bool:
        """Remove a file unless somebody holds a lock on it. Who reads it at this moment reads on."""
        with contextlib.suppress(FileNotFoundError):
            handle = Handle(os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC))
            try:
                fcntl.flock(handle.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            (self.folder / name).unlink()
        return True

    def _files(self) -> Files:
        """Length and time of last use (ns) of each file, whole or half."""
        found = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        facts = entry.stat(follow_symlinks=False)
                        found[entry.name] = (facts.st_size, facts.st_mtime_ns)
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        handle = Handle(os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            fcntl.flock(handle.number, fcntl.LOCK_UN)
