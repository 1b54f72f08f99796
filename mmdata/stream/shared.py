"""A small value that a process and all its DataLoader workers see: one JSON text in a file without a name."""

from __future__ import annotations

import json
import multiprocessing.context
import multiprocessing.reduction
import os
import tempfile
import zlib
from typing import Any

ATTEMPTS = 1000
"""Reads of a text while it is being written, before something must be broken."""


class SharedValue:
    """A JSON value. What one process sets, the others get, also workers that were started before.

    The value lies in a file that has no name and ends with its last process, however that ends: nothing is left to
    clean up, and two jobs never meet. Forked processes inherit it, spawned ones are handed it while they start. A copy
    made otherwise (`copy`, `pickle`) is a value of its own.
    """

    def __init__(self, value: Any = None) -> None:
        self._open(unnamed_file())
        self.set(value)

    def set(self, value: Any) -> None:
        """Let all processes see `value`. One process at a time may do so."""
        text = json.dumps(value).encode()
        record = len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little") + text
        os.pwrite(self._file, record, 0)

    def get(self) -> Any:
        """The value that was last set, as JSON leaves it: tuples are lists."""
        for _ in range(ATTEMPTS):
            head = os.pread(self._file, 8, 0)
            size, check = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little")
            text = os.pread(self._file, size, 8)
            if len(text) == size and zlib.crc32(text) == check:  # else another process is just writing
                return json.loads(text)
        raise RuntimeError("a shared value stays unreadable: two processes set it at once")

    def _open(self, file: int) -> None:
        self._file = file
        self._close = os.close  # at the interpreter's end the module may have lost its names before

    def __getstate__(self) -> dict[str, Any]:
        if multiprocessing.context.get_spawning_popen() is None:
            return {"value": self.get()}
        return {"file": multiprocessing.reduction.DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "file" in state:
            self._open(state["file"].detach())
        else:
            self._open(unnamed_file())
            self.set(state["value"])

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._close(self._file)


def unnamed_file() -> int:
    """A file in memory that has no name and ends with its last descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mmdata", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # where there is no memfd, an unlinked file does the same
        return os.dup(file.fileno())
