"""Between the parent and a worker: a socket for messages, and shared memory without a name for media.

A socket would copy each picture through the kernel in small pieces, twice; writing it once into a mapping
that both sides hold costs a tenth of that. In each of the areas the two sides take turns, so it needs no lock.
"""

from __future__ import annotations

import io
import mmap
import operator
import os
import pickle
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from mmdata.errors import RunError
from mmdata.types import Media, Origin, Sample, Stored, Text

_STEP = 1 << 20
_Reduced = tuple[Callable[..., Any], tuple[Any, ...]]
_NAMES: dict[type, tuple[str, ...]] = {kind: tuple(kind.__slots__) for kind in (Media, Stored, Origin, Sample, Text)}


def shared_memory() -> int:
    """A file descriptor of memory that vanishes with the last process that holds it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mmdata")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _make(kind: type, *values: Any) -> Any:
    return kind(**dict(zip(_NAMES[kind], values, strict=True)))


def _reducer(kind: type) -> Callable[[Any], _Reduced]:
    """How to pickle a `kind`. Dataclasses with slots do it in Python, field by field, twice as slowly."""
    values = operator.attrgetter(*_NAMES[kind])
    return lambda value: (_make, (kind, *values(value)))


def _reducer_apart(kind: type) -> Callable[[Any], _Reduced]:
    """The same, with `data` apart: a buffer that the message only refers to."""
    reduce, at = _reducer(kind), 1 + _NAMES[kind].index("data")

    def reduced(value: Any) -> _Reduced:
        make, values = reduce(value)
        if value.data is None:
            return make, values
        return make, (*values[:at], pickle.PickleBuffer(value.data), *values[at + 1 :])

    return reduced


_REDUCERS = {kind: (_reducer_apart if "data" in names else _reducer)(kind) for kind, names in _NAMES.items()}


@dataclass(frozen=True, slots=True)
class Packed:
    """A message that is ready to go: `buffers` through an area of memory, `rest` through the socket."""

    buffers: list[memoryview]
    rest: bytes


def pack(message: Any) -> Packed:
    """Pickle a message; the bytes of its media are referred to, not copied."""
    buffers: list[pickle.PickleBuffer] = []
    out = io.BytesIO()
    pickler = pickle.Pickler(out, 5, buffer_callback=buffers.append)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(message)
    return Packed([buffer.raw() for buffer in buffers], out.getvalue())


class Channel:
    """One side. Bytes of the media in a message go through one of the areas of memory, all else through the socket.

    A question may be put while an earlier one is unanswered if it goes through another area. Its answer comes back
    through the same.
    """

    def __init__(self, socket: int, *areas: int) -> None:
        self._connection = Connection(socket)
        self._areas = [_Area(memory) for memory in areas]
        self.area = 0
        """Through which area the last message was received."""

    def send(self, message: Any, area: int = 0) -> None:
        self.send_packed(pack(message), area)

    def send_packed(self, packed: Packed, area: int = 0) -> None:
        sizes = [len(buffer) for buffer in packed.buffers]
        if sizes:
            memory = self._areas[area].mapped(sum(sizes))
            at = 0
            for size, buffer in zip(sizes, packed.buffers, strict=True):
                memory[at : at + size] = buffer
                at += size
        self._connection.send_bytes(struct.pack(f"<{2 + len(sizes)}Q", area, len(sizes), *sizes) + packed.rest)

    def receive(self) -> Any:
        """The next message. Raises EOFError when the other side is gone."""
        message = memoryview(self._connection.recv_bytes())
        self.area, count = struct.unpack_from("<2Q", message)
        sizes = struct.unpack_from(f"<{count}Q", message, 16)
        buffers: list[bytes] = []
        if sizes:
            memory = self._areas[self.area].mapped(sum(sizes))
            at = 0
            for size in sizes:
                buffers.append(memory[at : at + size])
                at += size
        return pickle.loads(message[16 + 8 * count :], buffers=buffers)

    def fileno(self) -> int:
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()
        for area in self._areas:
            area.close()


class _Area:
    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._map: mmap.mmap | None = None

    def mapped(self, size: int) -> mmap.mmap:
        """The memory, at least `size` bytes of it; either side may have to grow it. Raises RunError where it cannot."""
        if self._map is None or len(self._map) < size:
            if self._map is not None:
                self._map.close()
                self._map = None
            wanted = max(1, -(-size // _STEP)) * _STEP  # a picture of no bytes is one too
            try:
                if os.fstat(self._memory).st_size < wanted:
                    os.ftruncate(self._memory, wanted)
                self._map = mmap.mmap(self._memory, os.fstat(self._memory).st_size)
            except OSError as error:  # said of the other side, it would mean that it is gone
                said = f"{wanted:,} bytes of memory shared with a worker: {error.strerror}"
                raise RunError(f"{said}; see `ulimit -f` and `ulimit -v`") from error
        return self._map

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None
        os.close(self._memory)
