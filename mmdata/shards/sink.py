"""A file that is written in large pieces while another thread takes the sha256 of them."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from types import TracebackType
from typing import Any

GATHER = 1 << 20
"""Bytes that are written at once, about."""
SMALL = 16 << 10
"""Pieces below so many bytes are joined with their neighbours: a hash update or an entry of a `writev` for each header
would cost more than the copy."""
AHEAD = 8
"""Writes that the digest may lag behind: bounds memory."""
MOST_PIECES = 512
"""Of one `writev`; POSIX allows 1024 on Linux."""

Pieces = list[bytes | memoryview]


class ShardSink:
    """A binary file, as a context: `write` gathers, `flush` writes what is gathered, `hexdigest` closes the sum.

    hashlib lets go of the interpreter while it sums, as does the kernel while it writes: with a second core the digest
    costs no time. A failure of either is raised by the next call.

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
        self._queue: queue.Queue[Pieces | None] = queue.Queue(AHEAD)
        self._thread = threading.Thread(target=self._sum, daemon=True) if sha256 else None

    def __enter__(self) -> ShardSink:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def write(self, data: bytes | memoryview) -> int:
        """Append `data`, which must not change before `flush`."""
        size = len(data)
        if size < SMALL:
            self._run.append(data)
        else:
            self._join()
            self._pieces.append(data)
        self._size += size
        if self._size >= GATHER:
            self.flush()
        return size

    def flush(self) -> None:
        """Write all that was gathered. Raises OSError."""
        self._join()
        pieces, self._pieces, self._size = self._pieces, [], 0
        if self._thread is not None and pieces:
            self._queue.put(pieces)
        for first in range(0, len(pieces), MOST_PIECES):
            _write(self._handle, pieces[first : first + MOST_PIECES])

    def hexdigest(self) -> str:
        """sha256 of all that was written; nothing can be written after it."""
        self.flush()
        self._end()
        return str(self._digest.hexdigest())

    def _join(self) -> None:
        if self._run:
            self._pieces.append(b"".join(self._run))
            self._run = []

    def _sum(self) -> None:
        while (pieces := self._queue.get()) is not None:
            for piece in pieces:
                self._digest.update(piece)

    def _end(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None


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
