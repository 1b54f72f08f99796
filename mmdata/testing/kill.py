"""Kill a command at random moments, start it again each time, and let it finish: what a resumable job must survive."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdata.rng import generator

GONE_SECONDS = 5.0
OUTPUT_TAIL = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One start of the command: how long it ran, at which second it was killed (None: it ended by itself), its
    exit status (negative: the signal's number) and the end of what it printed, both streams together."""

    seconds: float
    killed_at: float | None
    returncode: int
    output: str


def run_with_kills(
    command: Sequence[str],
    *,
    kills: int,
    seed: int,
    seconds: float,
    earliest: float = 0.0,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float = 600.0,
    finished: Callable[[], None] | None = None,
) -> list[Run]:
    """Start `command` over and over; SIGKILL it and all processes of its group at moments drawn evenly between
    `earliest` and `seconds` after its start, `kills` times; then let it finish. The moments are a function of `seed`.

    `seconds` should be how long an uninterrupted run takes, measured beforehand on another output. A resumed command
    may finish before its next moment: then `finished` is called (to check the result, and to remove it so that there is
    work again) and the killing goes on. Without `finished`, nothing is killed after that.

    Returns one entry per start, the last of which was not killed. Raises RuntimeError when the command fails by itself,
    and TimeoutError when the undisturbed run takes longer than `timeout`. Processes that the command puts into groups
    of their own are out of reach.

    >>> runs = run_with_kills(["sleep", "30"], kills=1, seed=0, seconds=0.2, timeout=0.5)
    Traceback (most recent call last):
    TimeoutError: sleep 30: not finished after 0.5 s
    """
    runs: list[Run] = []
    done = 0
    while done < kills:
        moment = float(generator(seed, "kill", len(runs)).uniform(earliest, seconds))
        runs.append(_run(command, moment, env, cwd))
        if runs[-1].killed_at is not None:
            done += 1
        elif finished is None:
            return runs
        else:
            finished()
    runs.append(_run(command, timeout, env, cwd))
    if runs[-1].killed_at is not None:
        raise TimeoutError(f"{' '.join(command)}: not finished after {timeout:g} s")
    return runs


def _run(
    command: Sequence[str], limit: float, env: Mapping[str, str] | None, cwd: str | os.PathLike[str] | None
) -> Run:
    """One start, killed after `limit` seconds. Raises RuntimeError if it fails before."""
    # A file, not a pipe: nobody has to read along, and what is left of a killed group cannot hold it open.
    with tempfile.TemporaryFile() as output:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env, cwd=cwd, start_new_session=True)
        killed_at = None
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            killed_at = time.monotonic() - start
        finally:
            _kill_group(process)
        seconds = time.monotonic() - start
        output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_TAIL))
        tail = output.read().decode("utf-8", "replace")
    if killed_at is None and process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}\n{tail}")
    return Run(seconds=seconds, killed_at=killed_at, returncode=process.returncode, output=tail)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the group, collect its leader, and wait until no other member runs any more."""
    deadline = time.monotonic() + GONE_SECONDS
    while True:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            break
        process.wait()
        if not _alive(process.pid):
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"process group {process.pid} outlives SIGKILL")
        time.sleep(0.01)
    process.wait()


def _alive(group: int) -> bool:
    """Whether a member of the process group runs. Zombies, which may wait long for a container's first process to
    collect them, write nothing and do not count. Where there is no /proc, the answer is yes."""
    proc = Path("/proc")
    if not proc.is_dir():
        return True
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                state, _, member_of = (entry / "stat").read_text().rpartition(") ")[2].split()[:3]
            except (OSError, ValueError):
                continue  # gone meanwhile
            if int(member_of) == group and state not in "ZX":
                return True
    return False
