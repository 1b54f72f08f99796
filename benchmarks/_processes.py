"""What a command and its worker processes use while they run: memory, cores, and what they leave idle (Linux)."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks._interleaved import Row

EVERY = 0.2
PSS_EVERY = 5  # The kernel walks all page tables for it.


def watched(command: Sequence[str]) -> Row:
    """Run it, and what it used:

    wall, cpu       seconds; cpu of all its processes
    busy            cpu / (wall * cores)
    busy_of_free    cpu / (cpu + idle), where idle is the time in which a core had nothing to do at all: what other
                    work takes does not count
    parent_mib      peak resident memory of the command's own process, as the kernel keeps it
    worker_mib      of its largest child
    together_mib    peak of all together, pages that they share counted once (PSS), about every second
    workers         most children at a time

    Raises SystemExit if it fails.
    """
    with tempfile.TemporaryFile() as errors:
        used, idle, started = _children(), _idle(), time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        peaks: Row = {"parent_mib": 0.0, "worker_mib": 0.0, "together_mib": 0.0, "workers": 0.0}
        ended = threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, peaks, ended))
        watch.start()
        process.wait()
        wall = time.perf_counter() - started
        ended.set()
        watch.join()
        cpu, idle = _children() - used, _idle() - idle
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}\n{errors.read().decode(errors='replace')[-2000:]}")
    cores = len(os.sched_getaffinity(0))
    return {"wall": wall, "cpu": cpu, "busy": cpu / (wall * cores), "busy_of_free": cpu / (cpu + idle), **peaks}


def _watch(pid: int, peaks: Row, ended: threading.Event) -> None:
    looks = 0
    while not ended.wait(EVERY):
        children = _below(pid)
        peaks["workers"] = max(peaks["workers"], len(children))
        peaks["parent_mib"] = max(peaks["parent_mib"], _field(pid, "status", "VmHWM:"))
        peaks["worker_mib"] = max([peaks["worker_mib"], *(_field(child, "status", "VmHWM:") for child in children)])
        if looks % PSS_EVERY == 0:
            together = sum(_field(each, "smaps_rollup", "Pss:") for each in (pid, *children))
            peaks["together_mib"] = max(peaks["together_mib"], together)
        looks += 1


def _below(pid: int) -> list[int]:
    """All descendants of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = [int(child) for child in (task / "children").read_text().split()]
        except OSError:  # it has ended
            continue
        for child in children:
            found += [child, *_below(child)]
    return found


def _field(pid: int, file: str, name: str) -> float:
    """MiB of a line such as `VmHWM:  1234 kB`; 0 of a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def _children() -> float:
    """CPU seconds of all processes that this one has waited for, and theirs."""
    times = os.times()
    return times.children_user + times.children_system


def _idle() -> float:
    """Seconds in which cores of this process had nothing to do, since the machine started."""
    cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    idle = 0
    for line in Path("/proc/stat").read_text().splitlines():
        words = line.split()
        if words and words[0] in cores:
            idle += int(words[4]) + int(words[5])  # idle, and waiting for a disk
    return idle / os.sysconf("SC_CLK_TCK")
