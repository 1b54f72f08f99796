"""Between the parent and a worker: a socket for messages, and shared memory without a name for media.

A socket would copy each picture through the kernel in small pieces, twice; writing it once into a mapping
that both sides hold costs a tenth of that. The two sides take turns, so the memory needs no lock.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from mmdata.engine.blobs import Slot, give, take

_STEP = 1 << 20


def shared_memory() -> int:
    """A file descriptor of memory that vanishes with the last process that holds it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mmdata")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Channel:
    """One side. Messages are dataclasses with a `sample` (or None), whose media bytes go through the memory."""

    def __init__(self, socket: int, memory: int) -> None:
        self._connection = Connection(socket)
        self._memory = memory
        self._map: mmap.mmap | None = None

    def send(self, message: Any) -> None:
        spans: dict[Slot, tuple[int, int]] = {}
        if message.sample is not None:
            sample, blobs = take(message.sample)
            end = 0
            for slot, blob in blobs.items():
                spans[slot] = (end, end + len(blob))
                end += len(blob)
            if blobs:
                memory = self._mapped(end)
                for (start, stop), blob in zip(spans.values(), blobs.values(), strict=True):
                    memory[start:stop] = blob
                message = replace(message, sample=sample)
        self._connection.send((message, spans))

    def receive(self) -> Any:
        """The next message. Raises EOFError when the other side is gone."""
        message, spans = self._connection.recv()
        if spans:
            memory = self._mapped(max(stop for _, stop in spans.values()))
            blobs = {slot: memory[start:stop] for slot, (start, stop) in spans.items()}
            message = replace(message, sample=give(message.sample, blobs))
        return message

    def fileno(self) -> int:
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()
        if self._map is not None:
            self._map.close()
            self._map = None
        os.close(self._memory)

    def _mapped(self, size: int) -> mmap.mmap:
        """The memory, at least `size` bytes of it; either side may have to grow it."""
        if self._map is None or len(self._map) < size:
            if self._map is not None:
                self._map.close()
            wanted = max(1, -(-size // _STEP)) * _STEP  # a picture of no bytes is one too
            if os.fstat(self._memory).st_size < wanted:
                os.ftruncate(self._memory, wanted)
            self._map = mmap.mmap(self._memory, os.fstat(self._memory).st_size)
        return self._map
