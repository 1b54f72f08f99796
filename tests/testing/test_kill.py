"""The kill scheduler, on a command that counts to twenty in a file and can be resumed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmdata.testing import kill
from mmdata.testing.kill import Preloaded, run_with_kills

COUNT = """
import os, sys, time
path, twenty = sys.argv[1], 20
done = open(path).read().count(".") if os.path.exists(path) else 0
for _ in range(done, twenty):
    time.sleep(0.02)
    with open(path, "a") as file: file.write(".")
print("counted", flush=True)
"""


def command(path: Path) -> list[str]:
    return [sys.executable, "-c", COUNT, str(path)]


def test_it_is_killed_and_then_finishes(tmp_path: Path) -> None:
    path, finishes = tmp_path / "dots", []

    def finished() -> None:
        finishes.append(path.read_text())
        path.unlink()

    runs = run_with_kills(command(path), kills=6, seed=1, seconds=0.4, finished=finished)
    killed = [run for run in runs if run.killed_at is not None]
    assert len(killed) == 6
    assert [run.returncode for run in killed] == [-9] * 6
    assert (runs[-1].returncode, runs[-1].killed_at, runs[-1].output) == (0, None, "counted\n")
    assert path.read_text() == "." * 20
    assert finishes == ["." * 20] * (len(runs) - 7)


@pytest.mark.parametrize("status", [0, 3])
def test_an_end_between_the_moment_and_the_signal_is_its_own(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finish is told as a finish and a failure as a failure, although the wait had run out."""
    waited = kill._ended

    def late(process: subprocess.Popen[bytes], seconds: float) -> bool:
        assert waited(process, 30)
        return False

    monkeypatch.setattr(kill, "_ended", late)
    finishes: list[int] = []
    ends = ["sh", "-c", f"exit {status}"]
    if status:
        with pytest.raises(RuntimeError, match="exit status 3"):
            run_with_kills(ends, moments=[0.01])
    else:
        runs = run_with_kills(ends, moments=[0.01], finished=lambda: finishes.append(1))
        assert [(run.returncode, run.killed_at) for run in runs] == [(0, None)] * 2
        assert finishes == [1]


def test_moments_follow_the_seed(tmp_path: Path) -> None:
    def moments(seed: int) -> list[float]:
        runs = run_with_kills(["sleep", "0.5"], kills=4, seed=seed, seconds=0.3, earliest=0.05)
        return [run.killed_at for run in runs if run.killed_at is not None]

    def apart(first: list[float], second: list[float]) -> float:
        assert len(first) == len(second) == 4
        assert min(*first, *second) >= 0.05
        return max(abs(a - b) for a, b in zip(first, second, strict=True))

    # A busy machine adds to a moment what it likes: of several tries one is near.
    assert any(apart(moments(1), moments(1)) < 0.1 for _ in range(5))
    assert apart(moments(1), moments(2)) > 0.02


def test_it_stops_at_a_finish_without_a_callback(tmp_path: Path) -> None:
    runs = run_with_kills(["true"], kills=3, seed=0, seconds=5, earliest=5)
    assert [(run.killed_at, run.returncode) for run in runs] == [(None, 0)]


def test_a_listed_moment_is_one_start_reached_or_not() -> None:
    finishes: list[int] = []
    runs = run_with_kills(["true"], moments=[30.0, 30.0], finished=lambda: finishes.append(1))
    assert [run.killed_at for run in runs] == [None] * 3
    assert finishes == [1, 1]


def test_moments_that_never_come_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kill, "UNHURT", 3)
    finishes: list[int] = []
    with pytest.raises(RuntimeError, match="ended by itself 3 times, before each moment drawn between 20 and 30 s"):
        run_with_kills(["true"], kills=1, earliest=20, seconds=30, finished=lambda: finishes.append(1))
    assert finishes == [1, 1]


def test_the_whole_group_dies(tmp_path: Path) -> None:
    """Children that ignore everything that can be ignored are gone when the call returns."""
    script = (
        "import os, signal, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', "
        "'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'])\n"
        "open(sys.argv[1], 'a').write(f'{child.pid}\\n')\n"
        "if len(open(sys.argv[1]).readlines()) < 2: time.sleep(60)\n"
    )
    pids = tmp_path / "pids"
    runs = run_with_kills([sys.executable, "-c", script, str(pids)], kills=1, seed=0, seconds=1.0, earliest=0.9)
    assert len(runs) == 2
    for pid in map(int, pids.read_text().split()):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"


def test_a_failure_is_not_taken_for_a_kill(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="exit status 3\nsorry"):
        run_with_kills([sys.executable, "-c", "print('sorry'); exit(3)"], kills=2, seed=0, seconds=30, earliest=20)
    assert time.monotonic() - start < 10


def test_listed_moments_and_a_command_per_start(tmp_path: Path) -> None:
    starts = []

    def each(number: int) -> list[str]:
        starts.append(number)
        return ["sleep", "60" if number < 2 else "0"]

    runs = run_with_kills(each, moments=[0.05, 0.15])
    assert starts == [0, 1, 2]
    assert [run.killed_at is not None for run in runs] == [True, True, False]
    assert 0.05 <= (runs[0].killed_at or 0) < 60
    assert 0.15 <= (runs[1].killed_at or 0) < 60


def test_a_fork_that_is_preloaded_is_killed_and_finishes(tmp_path: Path) -> None:
    """`python -m mmdata.testing.kill` itself, which the server has imported; its words and its exit status are told."""
    marks = tmp_path / "marks"
    told = ("--moments", "0.2", "--", "sh", "-c", f"echo x >> {marks}; sleep 0.4")
    runs = run_with_kills(Preloaded(module="mmdata.testing.kill", arguments=told), moments=[0.1])
    assert [run.returncode for run in runs] == [-9, 0]
    assert "start 0: killed after 0.2" in runs[-1].output
    assert "start 1: ended by itself" in runs[-1].output
    assert marks.read_text().count("x") in (1, 2, 3)  # of three starts; two were killed, maybe before they wrote
    with pytest.raises(RuntimeError, match=r"python -m mmdata.testing.kill .*: exit status 1"):
        run_with_kills(Preloaded(module="mmdata.testing.kill", arguments=("--kills", "0", "--", "false")), kills=0)
