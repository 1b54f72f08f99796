"""Media that wait for their unit's turn: in memory up to a budget, beyond it in one unnamed file per unit; or, where
another process has mapped the unit, in the file that it left."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mmdata.checksum import crc32c
from mmdata.errors import DataError


@dataclass(frozen=True, slots=True)
class Spilled:
    offset: int
    size: int


Held = bytes | Spilled


@dataclass(slots=True)
class Memory:
    """Bytes held by all units of a run, and how many they may be."""

    limit: int
    used: int = 0
    peak: int = 0
    spilled: int = 0


class Spool:
    """The waiting media of one unit. The file has no name, so that a kill leaves nothing behind."""

    def __init__(self, folder: Path, memory: Memory) -> None:
        self._folder = folder
        self._memory = memory
        self._file: IO[bytes] | None = None
        self._end = 0
        self._in_memory = 0

    def put(self, data: bytes) -> Held:
        if self._memory.used + len(data) <= self._memory.limit:
            self._memory.used += len(data)
            self._memory.peak = max(self._memory.peak, self._memory.used)
            self._in_memory += len(data)
            return data
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, prefix="spool-")  # noqa: SIM115 closed with the unit
        held = Spilled(self._end, len(data))
        written = 0
        while written < len(data):
            written += os.pwrite(self._file.fileno(), data[written:], self._end + written)
        self._end += len(data)
        self._memory.spilled += len(data)
        return held

    def get(self, held: Held) -> bytes:
        if isinstance(held, bytes):
            return held
        assert self._file is not None
        return os.pread(self._file.fileno(), held.size, held.offset)

    def close(self) -> None:
        self._memory.used -= self._in_memory
        self._in_memory = 0
        if self._file is not None:
            self._file.close()
            self._file = None


class FileSpool:
    """The media of a unit in its file, read when they are asked for and compared with their checksums."""

    def __init__(self, file: IO[bytes], start: int, sums: dict[int, int]) -> None:
        self._file = file
        self._start = start
        self.sums = sums

    def get(self, held: Held) -> bytes:
        """Raises DataError `unit_damaged` for bytes that are not what was written."""
        assert isinstance(held, Spilled), held
        data = os.pread(self._file.fileno(), held.size, self._start + held.offset)
        if crc32c(data) != self.sums[held.offset] and held.size:
            raise DataError(
                "unit_damaged", f"{self._file.name}: media have changed; remove it and run its worker again"
            )
        return data

    def close(self) -> None:
        self._file.close()
