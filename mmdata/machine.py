"""What this machine grants to a process: cores, memory, open files, room on disks. Reads only; needs no package."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # cgroups of version 1 write a number near 2^63 for no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """`there` in the machine, `allowed` to this process (affinity), `quota` of CPU time that its control group gets
    (in cores; None: no limit)."""

    there: int
    allowed: int
    quota: float | None

    @property
    def usable(self) -> float:
        return self.allowed if self.quota is None else min(float(self.allowed), self.quota)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes `there` in the machine, and the `limit` of the control group (None: no limit)."""

    there: int | None
    limit: int | None

    @property
    def usable(self) -> int | None:
        return min((found for found in (self.there, self.limit) if found is not None), default=None)


def cores(root: Path = Path("/")) -> Cores:
    """Of this process; `root` is where `proc` and `sys` lie."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = []
    for group in _groups(root, "cpu"):
        words = _read(group / "cpu.max").split()  # version 2: `200000 100000`, or `max 100000`
        if not words:
            words = [_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")]
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return Cores(there=os.cpu_count() or allowed, allowed=allowed, quota=min(quotas, default=None))


def memory(root: Path = Path("/")) -> Memory:
    """Of this process; `root` is where `proc` and `sys` lie."""
    limits = []
    for group in _groups(root, "memory"):
        text = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
        if text.isdigit() and int(text) < _UNLIMITED:
            limits.append(int(text))
    total = next(
        (line.split()[1] for line in _read(root / "proc/meminfo").split("\n") if line.startswith("MemTotal:")), ""
    )
    return Memory(there=int(total) * 1024 if total.isdigit() else None, limit=min(limits, default=None))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group for a controller and of those above it, whichever version."""
    for line in _read(root / "proc/self/cgroup").split("\n"):
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            base = root / "sys/fs/cgroup"
        elif controller in names.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = base / path.lstrip("/")
        while True:
            if ".." not in folder.parts:  # of a container that sees its host's path
                yield folder
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent


def open_files() -> tuple[int, int]:
    """How many files this process may hold open, and to how many it may raise that; -1 is without limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (-1 if soft == resource.RLIM_INFINITY else soft), (-1 if hard == resource.RLIM_INFINITY else hard)


def room(path: Path) -> tuple[int, int] | None:
    """(free bytes, all bytes) of the disk where `path` lies or would lie; None where it cannot be asked."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        found = shutil.disk_usage(path)
    except OSError:
        return None
    return found.free, found.total


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
