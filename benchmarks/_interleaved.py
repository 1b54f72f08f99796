"""Contenders in processes of their own that take turns, and the table of their ratios."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Row = dict[str, float]


class Contender:
    """A process that does one pass for every line it is sent, and answers with a line of JSON."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
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


def machine() -> dict[str, Any]:
    """What else there was to do: the cores, and the load averages of one, five and fifteen minutes."""
    return {"cores": len(os.sched_getaffinity(0)), "load": [round(value, 2) for value in os.getloadavg()]}


def write(name: str, found: Any, missing: Mapping[str, str], *, to: Path | None = None, **told: Any) -> Path:
    """Keep what was measured, in `to` or in the folder of results."""
    path = to or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"measured": time.strftime("%Y-%m-%d"), **told, "rounds": found, "missing": missing}
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
