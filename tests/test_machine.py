"""What a process is granted, from files as kernels and containers write them."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from mmdata import machine


def root(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "quota", "limit"),
    [
        ({}, None, None),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/a/b/memory.max": "1073741824\n",
                "sys/fs/cgroup/a/memory.max": "max\n",
            },
            1.5,
            1 << 30,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5, None),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n7:memory:/docker/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            4.0,
            None,
        ),
        ({"proc/self/cgroup": "1:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, None, None),
        ({"proc/self/cgroup": "0::/../x\nrubbish\n", "sys/fs/cgroup/cpu.max": "100000 0"}, None, None),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, files: dict[str, str], quota: float | None, limit: int | None
) -> None:
    here = root(tmp_path, {**files, "proc/meminfo": "MemFree: 1 kB\nMemTotal:  2097152 kB\n"})
    cores = machine.cores(here)
    assert (cores.quota, cores.allowed) == (quota, len(os.sched_getaffinity(0)))
    assert cores.usable == (cores.allowed if quota is None else min(quota, cores.allowed))
    memory = machine.memory(here)
    assert (memory.there, memory.limit) == (2 << 30, limit)
    assert memory.usable == (limit or 2 << 30)


def test_open_files_and_room(tmp_path: Path) -> None:
    soft, hard = machine.open_files()
    assert soft == resource.getrlimit(resource.RLIMIT_NOFILE)[0] or soft == -1
    assert hard >= soft or hard == -1
    free, total = machine.room(tmp_path / "not" / "there") or (0, 0)
    assert 0 < free <= total
