"""Kill a command at random or listed moments, start it again each time, and let it finish: what a resumable job must
survive.

    python -m mmdata.testing.kill --kills 5 --seconds 20 --seed 1 -- python -m mmdata.build --spec my.yaml
    python -m mmdata.testing.kill --moments 1.5 4 9 -- python train.py

SIGKILL goes to all processes of the command's group, as a machine that is reclaimed ends them: nothing is flushed.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from mmdata import unread
from mmdata.rng import generator

GONE_SECONDS = 5.0
UNHURT = 100
"""Starts in a row that may end by themselves before their moments."""
OUTPUT_TAIL = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Preloaded:
    """`python -m module arguments`, for a module that has `main(arguments) -> int`, as a fork of a server: for many
    short runs, whose imports would take most of the time. `preload` says what the server imports. The environment is
    that in which the server was started, by the first of these commands."""

    module: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join(("python -m", self.module, *self.arguments))


Command = Sequence[str] | Preloaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One start of the command: how long it ran, at which second it was killed (None: it ended by itself), its
    exit status (negative: the signal's number) and the end of what it printed, both streams together."""

    seconds: float
    killed_at: float | None
    returncode: int
    output: str


def preload(*modules: str) -> None:
    """What the server of `Preloaded` commands imports; before the first of them is started."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, *modules])


def run_with_kills(
    command: Command | Callable[[int], Command],
    *,
    kills: int = 0,
    seed: int = 0,
    seconds: float = 0.0,
    earliest: float = 0.0,
    moments: Sequence[float] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float = 600.0,
    finished: Callable[[], None] | None = None,
) -> list[Run]:
    """Start `command` over and over; SIGKILL it and all processes of its group at moments drawn evenly between
    `earliest` and `seconds` after its start, `kills` times; then let it finish. The moments are a function of `seed`.
    With `moments` they are those seconds, one start each, and nothing is drawn.

    `seconds` should be how long an uninterrupted run takes, measured beforehand on another output. A `command` that is
    a function is asked with the number of each start, from 0: so each start may have other workers or ranks. A resumed
    command may finish before its next moment: then `finished` is called (to check the result, and to remove it so that
    there is work again) and the killing goes on, with another draw or the next of `moments`. Without `finished`,
    nothing is killed after that.

    Returns one entry per start, the last of which was not killed. Raises RuntimeError when the command fails by itself,
    or ends before its moments so often that none will come,
    and TimeoutError when the undisturbed run takes longer than `timeout`. Processes that the command puts into groups
    of their own are out of reach.

    >>> runs = run_with_kills(["sleep", "30"], kills=1, seed=0, seconds=0.2, timeout=0.5)
    Traceback (most recent call last):
    TimeoutError: sleep 30: not finished after 0.5 s
    """
    runs: list[Run] = []
    listed = None if moments is None else [float(moment) for moment in moments]
    wanted = kills if listed is None else len(listed)

    def start(limit: float) -> Run:
        return _run(command(len(runs)) if callable(command) else command, limit, env, cwd)

    done = unhurt = 0
    while done < wanted:
        drawn = generator(seed, "kill", len(runs)).uniform(earliest, seconds) if listed is None else listed[done]
        runs.append(start(float(drawn)))
        killed = runs[-1].killed_at is not None
        unhurt = 0 if killed or listed is not None else unhurt + 1
        done += killed or listed is not None
        if killed:
            continue
        if finished is None:
            return runs
        if unhurt == UNHURT:
            raise RuntimeError(
                f"it ended by itself {UNHURT} times, before each moment drawn between {earliest:g} and {seconds:g} s; "
                "lower `seconds` and `earliest`"
            )
        finished()
    last = command(len(runs)) if callable(command) else command
    runs.append(_run(last, timeout, env, cwd))
    if runs[-1].killed_at is not None:
        raise TimeoutError(f"{_said(last)}: not finished after {timeout:g} s")
    return runs


def _said(command: Command) -> str:
    return str(command) if isinstance(command, Preloaded) else " ".join(command)


def _run(command: Command, limit: float, env: Mapping[str, str] | None, cwd: str | os.PathLike[str] | None) -> Run:
    """One start, killed after `limit` seconds. Raises RuntimeError if it fails before."""
    # A file, not a pipe: nobody has to read along, and what is left of a killed group cannot hold it open.
    with tempfile.NamedTemporaryFile() as output:
        start = time.monotonic()
        process: subprocess.Popen[bytes] | BaseProcess
        if isinstance(command, Preloaded):
            context = multiprocessing.get_context("forkserver")
            process = context.Process(
                target=_main, args=(command, output.name, None if cwd is None else os.fspath(cwd))
            )
            process.start()
        else:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=env, cwd=cwd, start_new_session=True)
        killed_at = None
        try:
            if not _ended(process, limit):
                killed_at = time.monotonic() - start
        finally:
            _kill_group(process)
        seconds = time.monotonic() - start
        output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_TAIL))
        tail = output.read().decode("utf-8", "replace")
    code = process.returncode if isinstance(process, subprocess.Popen) else process.exitcode
    assert code is not None, "it was waited for"
    if code != -signal.SIGKILL:
        killed_at = None  # it ended by itself between the moment and the signal
    if killed_at is None and code != 0:
        raise RuntimeError(f"{_said(command)}: exit status {code}\n{tail}")
    return Run(seconds=seconds, killed_at=killed_at, returncode=code, output=tail)


def _main(command: Preloaded, output: str, cwd: str | None) -> None:
    """What the fork does: a group of its own, its words into a file, then the command."""
    os.setsid()
    out = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if cwd is not None:
        os.chdir(cwd)
    sys.argv = [command.module, *command.arguments]
    code = importlib.import_module(command.module).main(list(command.arguments))
    sys.stdout.flush()
    raise SystemExit(code)


def _ended(process: subprocess.Popen[bytes] | BaseProcess, seconds: float) -> bool:
    """Wait so long for the end of the process; whether it came."""
    if isinstance(process, BaseProcess):
        process.join(seconds)
        return process.exitcode is not None
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill_group(process: subprocess.Popen[bytes] | BaseProcess) -> None:
    """SIGKILL the group, collect its leader, and wait until no other member runs any more."""
    pid = process.pid
    assert pid is not None
    deadline = time.monotonic() + GONE_SECONDS
    while True:
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            if isinstance(process, BaseProcess) and process.exitcode is None:
                process.kill()  # a fork that has no group of its own yet
            break
        _collect(process)
        if not _alive(pid):
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"process group {pid} outlives SIGKILL")
        time.sleep(0.01)
    _collect(process)


def _collect(process: subprocess.Popen[bytes] | BaseProcess) -> None:
    if isinstance(process, BaseProcess):
        process.join()
    else:
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


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mmdata.testing.kill", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1, metavar="N", help="how often to kill it (default 1)")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="kill it at most so long after a start (default 10)"
    )
    parser.add_argument(
        "--earliest", type=float, default=0.0, metavar="S", help="and at least so long after (default 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the moments are a function of it (default 0)")
    parser.add_argument("--moments", type=float, nargs="+", metavar="S", help="these seconds instead, one start each")
    parser.add_argument(
        "--timeout", type=float, default=3600.0, help="seconds of the last, undisturbed run (default 3600)"
    )
    parser.add_argument("command", nargs="+", help="the command, after --")
    told = parser.parse_args(argv)
    try:
        runs = run_with_kills(
            told.command,
            kills=told.kills,
            seed=told.seed,
            seconds=told.seconds,
            earliest=told.earliest,
            moments=told.moments,
            timeout=told.timeout,
        )
    except (RuntimeError, TimeoutError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for number, run in enumerate(runs):
        end = "ended by itself" if run.killed_at is None else "killed"
        print(f"start {number}: {end} after {run.seconds:.2f} s")
    print(runs[-1].output, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
