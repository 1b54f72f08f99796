"""A faulty file system without root: local files and `faulty://` URLs fail as rules say, and every fault is recorded.

    from mmdata import StreamingDataset
    from mmdata.testing.filesystem import Faults, Rule

    rules = [
        Rule("eio", "*/shards/*.tar", rate=0.2, times=2),    # a fifth of the reads fail twice, then succeed
        Rule("short", "*/shards/*.tar", rate=0.5, times=1),  # half of them give less than asked for, once
        Rule("enospc", "*/cache/*", operation="write"),      # the disk of the cache is full
    ]
    with Faults(rules, seed=1) as faults:
        for sample in StreamingDataset("faulty:///data/pets"):   # or plain "/data/pets"
            ...
    for fault in faults.log:
        print(fault.kind, fault.operation, fault.path, fault.expected)

Inside the `with` block, calls of this process to `os.open`, `pread`, `preadv`, `write`, `pwrite`, `ftruncate`, `fsync`,
`fdatasync`, `rename` and `replace` meet the rules, and so does the file system `faulty://`, under which all local files
can be read as if they were remote. Memory maps and Python's own file objects read in C, out of reach: damage the file
itself to try those. What mmdata has compiled would read so too, and is done without in the block. Which calls fail is a
function of the seed, the end of the path, the offset and how often that was tried: the same for any number of threads.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from mmdata.rng import generator
from mmdata.shards import opened, plain_tar

Kind = Literal["eio", "enospc", "short", "slow", "flip", "cut", "missing"]
Operation = Literal["open", "read", "write", "sync", "rename"]

EXPECTED: dict[tuple[Kind, Operation], str] = {
    ("eio", "open"): "tried again; RunError when it lasts",
    ("eio", "read"): "tried again; RunError when it lasts",
    ("eio", "write"): "not kept: read by ranges, one warning",
    ("eio", "sync"): "not kept: read by ranges, one warning",
    ("eio", "rename"): "not kept: read by ranges, one warning",
    ("enospc", "open"): "not kept: read by ranges, one warning",
    ("enospc", "write"): "not kept: read by ranges, one warning",
    ("enospc", "sync"): "not kept: read by ranges, one warning",
    ("enospc", "rename"): "not kept: read by ranges, one warning",
    ("short", "read"): "continued until all bytes are there",
    ("short", "write"): "continued until all bytes are there",
    ("slow", "open"): "waited for",
    ("slow", "read"): "waited for",
    ("slow", "write"): "waited for",
    ("slow", "sync"): "waited for",
    ("slow", "rename"): "waited for",
    ("flip", "read"): "detected: read again from the origin where there is one, else DataError",
    ("cut", "read"): "DataError shard_cut",
    ("missing", "open"): "DataError shard_missing",
}
"""What readers of datasets make of each fault: of those in writing, what the cache of remote files does."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`kind` of fault for the `operation` on paths that match the glob `path` (absolute; `*` crosses folders).

    A share `rate` of the calls is chosen by the seed, and each of them fails the first `times` times that it is made
    (the same path and offset), always if None. `seconds` is how long a `slow` call takes. Raises ValueError for a
    fault that the operation does not have.
    """

    kind: Kind
    path: str
    operation: Operation = "read"
    rate: float = 1.0
    times: int | None = None
    seconds: float = 0.1

    def __post_init__(self) -> None:
        if (self.kind, self.operation) not in EXPECTED:
            raise ValueError(f"{self.operation} has no fault {self.kind!r}")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that was given: `attempt` counts from 1 how often this call has been made; `expected` says what a
    reader should make of it."""

    kind: Kind
    operation: Operation
    path: str
    offset: int
    attempt: int
    expected: str


class Faults:
    """The rules at work, and the `log` of what they did. One at a time in a process."""

    def __init__(self, rules: Sequence[Rule], *, seed: int = 0) -> None:
        self.rules = tuple(rules)
        self.seed = seed
        self.log: list[Fault] = []
        self._attempts: Counter[tuple[Any, ...]] = Counter()
        self._lock = threading.Lock()
        self._replaced: list[tuple[Any, str, Any]] = []

    def meet(self, operation: Operation, path: str, offset: int = 0, size: int = 0) -> Fault | None:
        """The fault that this call meets, if any; a slow one has passed when this returns, one of the disk raises
        OSError, and one that is `missing` FileNotFoundError."""
        for number, rule in enumerate(self.rules):
            if rule.operation != operation or not fnmatch.fnmatch(path, rule.path):
                continue
            # Of the path its end only: the folder of a test is another each time.
            call = (number, operation, "/".join(Path(path).parts[-2:]), offset)
            with self._lock:
                self._attempts[call] += 1
                attempt = self._attempts[call]
                if rule.times is not None and attempt > rule.times:
                    continue
                if rule.rate < 1 and generator(self.seed, "fault", *map(str, call)).random() >= rule.rate:
                    continue
                fault = Fault(rule.kind, operation, path, offset, attempt, EXPECTED[rule.kind, operation])
                self.log.append(fault)
            match rule.kind:
                case "eio":
                    raise OSError(errno.EIO, os.strerror(errno.EIO), path)
                case "enospc":
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
                case "missing":
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
                case "slow":
                    time.sleep(rule.seconds)
            return fault
        return None

    def spoil(self, fault: Fault | None, data: bytes) -> bytes:
        """What a read gives in place of `data` under a fault: less, nothing, or one bit turned."""
        if fault is None or not data:
            return data
        match fault.kind:
            case "short":
                return data[: max(1, len(data) // 2)]
            case "cut":
                return b""
            case "flip":
                draw = generator(self.seed, "flip", str(fault.offset), str(fault.attempt))
                spoilt = bytearray(data)
                spoilt[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
                return bytes(spoilt)
        return data

    def __enter__(self) -> Faults:
        global _active
        if _active is not None:
            raise RuntimeError("faults are at work already in this process")
        _active = self
        for name, replacement in self._calls().items():
            self._replace(os, name, replacement)
        for module in (opened, plain_tar):
            self._replace(module, "calls", lambda: None)
        return self

    def _replace(self, module: Any, name: str, replacement: Any) -> None:
        self._replaced.append((module, name, getattr(module, name)))
        setattr(module, name, replacement)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _active
        _active = None
        for module, name, original in self._replaced:
            setattr(module, name, original)
        self._replaced.clear()

    def _calls(self) -> dict[str, Callable[..., Any]]:
        """The calls of `os` that meet the rules, by name."""
        kept: dict[str, Any] = {
            name: getattr(os, name)
            for name in ("open", "pread", "preadv", "pwrite", "write", "rename", "replace", "ftruncate")
        }
        kept |= {name: getattr(os, name) for name in ("fsync", "fdatasync") if hasattr(os, name)}

        def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            self.meet("open", os.path.abspath(os.fsdecode(path)))
            return int(kept["open"](path, flags, mode, dir_fd=dir_fd))

        def pread(handle: int, size: int, offset: int) -> bytes:
            fault = self.meet("read", _path_of(handle), offset, size)
            return self.spoil(fault, kept["pread"](handle, size, offset))

        def preadv(handle: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
            size = sum(memoryview(buffer).nbytes for buffer in buffers)
            fault = self.meet("read", _path_of(handle), offset, size)
            rest = memoryview(self.spoil(fault, kept["pread"](handle, size, offset)))
            count = len(rest)
            for buffer in buffers:
                target = memoryview(buffer).cast("B")
                taken = min(len(target), len(rest))
                target[:taken] = rest[:taken]
                rest = rest[taken:]
            return count

        def write(handle: int, data: Any) -> int:
            fault = self.meet("write", _path_of(handle), _offset_of(handle))
            return int(kept["write"](handle, _less(fault, data)))

        def pwrite(handle: int, data: Any, offset: int) -> int:
            fault = self.meet("write", _path_of(handle), offset)
            return int(kept["pwrite"](handle, _less(fault, data), offset))

        def ftruncate(handle: int, size: int) -> None:
            self.meet("write", _path_of(handle))
            kept["ftruncate"](handle, size)

        def synced(name: str) -> Callable[[int], None]:
            def call(handle: int) -> None:
                self.meet("sync", _path_of(handle))
                kept[name](handle)

            return call

        def moved(name: str) -> Callable[..., None]:
            def call(source: Any, target: Any, **options: Any) -> None:
                self.meet("rename", os.path.abspath(os.fsdecode(target)))
                kept[name](source, target, **options)

            return call

        calls: dict[str, Callable[..., Any]] = {"open": opened, "pread": pread, "preadv": preadv, "pwrite": pwrite}
        calls |= {"write": write, "ftruncate": ftruncate}
        calls |= {name: synced(name) for name in ("fsync", "fdatasync") if name in kept}
        return calls | {name: moved(name) for name in ("rename", "replace")}


_active: Faults | None = None


class FaultyFileSystem(LocalFileSystem):  # type: ignore[misc]
    """All local files as `faulty:///path`, read as remote ones are, under the rules at work."""

    protocol = "faulty"
    cachable = False

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = super().info(path, **options)
        if _active is not None and found["type"] == "file":
            _active.meet("open", self._strip_protocol(path))
        return found

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        name = self._strip_protocol(path)
        if _active is None:
            return _slice(name, start, end)
        _active.meet("open", name)
        fault = _active.meet("read", name, start or 0)
        return _active.spoil(fault, _slice(name, start, end))

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(LocalFileSystem._strip_protocol(str(path).removeprefix("faulty://")))

    def unstrip_protocol(self, name: str) -> str:
        return f"faulty://{self._strip_protocol(name)}"


def _slice(path: str, start: int | None, end: int | None) -> bytes:
    with open(path, "rb") as file:
        file.seek(start or 0)
        return file.read(-1 if end is None else max(0, end - (start or 0)))


def _less(fault: Fault | None, data: Any) -> Any:
    return memoryview(data)[: max(1, len(data) // 2)] if fault is not None and fault.kind == "short" else data


def _offset_of(handle: int) -> int:
    try:
        return os.lseek(handle, 0, os.SEEK_CUR)
    except OSError:  # a pipe, a socket
        return 0


def _path_of(handle: int) -> str:
    """The path of an open file, of whatever opened it; "" where the system does not say."""
    try:
        if sys.platform == "darwin":
            return os.fsdecode(fcntl.fcntl(handle, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return ""


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
