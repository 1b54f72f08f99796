"""Contenders in processes of their own that take turns, and the table of their ratios."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
Row = dict[str, float]


class Contender:
    """A process that does one pass for every line it is sent, and answers with a line of JSON."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
            )
        self._log = log

    def go(self, line: str) -> Row | str:
        """The figures of one pass, or why there are none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            said = self._log.read_text().strip().splitlines() if self._log.exists() else []
            return f"failed: {said[-1][:160] if said else 'no output'}"
        row: Row = json.loads(answer)
        return row

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def rounds(contenders: Mapping[str, Contender], line: str, count: int) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """`count` passes of each, in turn, after one to warm up; and why some have none. The order turns with each round:
    on a shared machine the first may have it easier."""
    found: dict[str, list[Row]] = {}
    missing: dict[str, str] = {}
    names = list(contenders)
    for number in range(count + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if name in missing:
                continue
            row = contenders[name].go(line)
            if isinstance(row, str):
                missing[name] = row
                found.pop(name, None)
            elif number:
                found.setdefault(name, []).append(row)
        print(f"round {number} of {count}", end="\r", file=sys.stderr, flush=True)
    return found, missing


def summary(rows: Sequence[Row], key: str) -> tuple[float, float, float]:
    """Median, least, most."""
    values = [row[key] for row in rows]
    return statistics.median(values), min(values), max(values)


def ratio(rows: Sequence[Row], others: Sequence[Row], key: str) -> tuple[float, float, float]:
    """Median, least and most of the ratios round by round: what drifts slower than a round falls out."""
    values = [row[key] / other[key] for row, other in zip(rows, others, strict=True)]
    return statistics.median(values), min(values), max(values)


def turns(calls: Mapping[str, Callable[[], object]], count: int, *, each: int = 1) -> dict[str, list[Row]]:
    """`count` rounds in this process, in which each call takes its turn, after one to warm up: wall and CPU seconds,
    over `each` if a call does so many things. The order turns with each round."""
    found: dict[str, list[Row]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(count + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            gc.collect()  # else one pays for looking through what the one before has left
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            row = {"seconds": (time.perf_counter() - wall) / each, "cpu": (time.process_time() - cpu) / each}
            if number:
                found[name].append(row)
    return found


def table(found: Mapping[str, Sequence[Row]], *columns: str, scale: Mapping[str, float] | None = None) -> None:
    """Print the medians of what was found, with least and most; `scale` multiplies columns, as 1e3 for milliseconds."""
    shown = columns or tuple(dict.fromkeys(key for rows in found.values() for row in rows for key in row))
    width = max((len(name) for name in found), default=0) + 2
    print(" " * width + "".join(f"{name:>28}" for name in shown))
    for name, rows in found.items():
        cells = []
        for column in shown:
            if column in rows[0]:
                middle, least, most = (value * (scale or {}).get(column, 1) for value in summary(rows, column))
                cells.append(f"{middle:.4g} ({least:.4g}-{most:.4g})")
            else:
                cells.append("-")
        print(f"{name:{width}}" + "".join(f"{cell:>28}" for cell in cells))


def answer(measure: Callable[[str], Row]) -> None:
    """As a contender's process: one pass for every line that is read, and its figures as a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    for line in sys.stdin:
        print(json.dumps(measure(line.strip())), file=answers, flush=True)


def race(
    names: Iterable[str],
    module: str,
    logs: Path,
    *arguments: str,
    line: str,
    count: int,
    pythons: Mapping[str, Path] | None = None,
) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """`rounds` of processes `python -m module NAME arguments...`, one for each name, each by its own Python or by this
    one."""
    contenders = {
        name: Contender(
            [str((pythons or {}).get(name, sys.executable)), "-m", module, name, *arguments],
            logs / f"{name.replace(' ', '_').replace(':', '')}.log",
        )
        for name in names
    }
    try:
        return rounds(contenders, line, count)
    finally:
        for contender in contenders.values():
            contender.end()
