"""A file that is written in large pieces, and that another thread takes the sha256 of meanwhile."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

GATHER = 1 << 17
"""Bytes that are written at once, about: few enough to be in the processor's cache still, where their checksum has just
been taken. Half a megabyte at once takes 4% more processor time for photographs of 0.2 MB (medians of 50 rounds that
took turns), and a thread that only writes, a megabyte at a time, 5% more than that, and no less wall time."""
SMALL = 16 << 10
"""Pieces below so many bytes are joined with their neighbours: a hash update or an entry of a `writev` for each header
would cost more than the copy."""
AHEAD = 8
"""Writes that the sum may lag behind: bounds memory."""
MOST_PIECES = 512
"""Of one `writev`; POSIX allows 1024 on Linux."""

Pieces = list[bytes | memoryview]


class ShardSink:
    """A binary file, as a context: `write` gathers, `flush` waits until all is written, `hexdigest` closes the sum.

    hashlib lets go of the interpreter while it sums: with more cores it costs no time. What is gathered at once needs
    no thread, and starts none.

    >>> import tempfile
    >>> with tempfile.TemporaryFile(buffering=0) as file, ShardSink(file.fileno()) as sink:
    ...     _ = sink.write(b"abc")
    ...     sink.hexdigest()[:8]
    'ba7816bf'
    """

    def __init__(self, handle: int, *, sha256: bool = True) -> None:
        self._handle = handle
        self._pieces: Pieces = []
        self._run: Pieces = []  # small ones, not yet joined
        self._size = 0
        self._digest: Any = hashlib.sha256() if sha256 else None
        self._lane: _Lane | None = None

    def __enter__(self) -> ShardSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lane is not None:
            self._lane.end()

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`, which must not change before `flush`. Raises OSError."""
        size = len(data)
        if size < SMALL:
            self._run.append(data)
        else:
            self._join()
            self._pieces.append(data)
        self._size += size
        if self._size >= GATHER:
            self._hand_over()
        return size

    def flush(self) -> None:
        """Write all that was gathered, and wait until it is summed. Raises OSError."""
        pieces = self._taken()
        self._write(pieces)
        lane, self._lane = self._lane, None
        if lane is None:
            self._sum(pieces)
            return
        lane.put(pieces)
        lane.end()
        lane.check()

    def hexdigest(self) -> str:
        """sha256 of all that was written; nothing can be written after it."""
        self.flush()
        return str(self._digest.hexdigest())

    def _join(self) -> None:
        if self._run:
            self._pieces.append(b"".join(self._run))
            self._run = []

    def _taken(self) -> Pieces:
        self._join()
        pieces, self._pieces, self._size = self._pieces, [], 0
        return pieces

    def _hand_over(self) -> None:
        """What was gathered: to the file, and to the thread that sums, which starts with the first of it."""
        pieces = self._taken()
        self._write(pieces)
        if self._digest is not None:
            self._lane = self._lane or _Lane(self._sum)
            self._lane.put(pieces)

    def _write(self, pieces: Pieces) -> None:
        for first in range(0, len(pieces), MOST_PIECES):
            _write(self._handle, pieces[first : first + MOST_PIECES])

    def _sum(self, pieces: Pieces) -> None:
        if self._digest is not None:
            for piece in pieces:
                self._digest.update(piece)


class _Lane:
    """A thread that takes pieces in their order. What it raises is raised by `check`, and by the next `put`."""

    def __init__(self, take: Callable[[Pieces], None]) -> None:
        self._take = take
        self._error: Exception | None = None
        self._queue: queue.Queue[Pieces | None] = queue.Queue(AHEAD)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, pieces: Pieces) -> None:
        self.check()
        self._queue.put(pieces)

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Wait until all is taken."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (pieces := self._queue.get()) is not None:
            try:
                if self._error is None:
                    self._take(pieces)
            except Exception as error:  # told where pieces come from
                self._error = error


def _write(handle: int, pieces: Pieces) -> None:
    """`writev` until all is written: the kernel may take less than it is given."""
    left = sum(map(len, pieces))
    done = os.writev(handle, pieces)
    while done < left:
        left -= done
        while done >= len(pieces[0]):
            done -= len(pieces[0])
            pieces = pieces[1:]
        pieces = [memoryview(pieces[0])[done:], *pieces[1:]]
        done = os.writev(handle, pieces)
