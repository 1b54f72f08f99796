"""What a person sees while a build runs: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections import Counter, deque
from types import TracebackType
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

REFRESH = 0.25
"""Seconds between refreshes of a terminal."""
WINDOW = 30.0
"""Seconds over which the rate behind the remaining time is taken."""


class Progress:
    """Counts records as they are decided and shows how it goes; a context manager.

    `total` is the number of records of this run, or None where nobody knows; `quiet` shows nothing at all.
    On a terminal the display is redrawn four times a second; elsewhere a line is written every `interval`
    seconds, and a summary at the end. A thread of its own draws, so `update` only counts.
    """

    def __init__(
        self, total: int | None, quiet: bool = False, *, interval: float = 10.0, file: IO[str] | None = None
    ) -> None:
        self.total, self.quiet, self.interval = total, quiet, interval
        self._file = file
        self._live: Live | None = None
        self._counts: dict[tuple[str, str], int] = {}
        self._units = self._rows = 0
        self._begin = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque([(self._begin, 0)])
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @functools.cached_property
    def _console(self) -> Console:
        from mmdata.display import console

        return console(self._file)

    @functools.cached_property
    def live(self) -> bool:
        """Is there a terminal to draw on?"""
        out = self._file or sys.stderr
        # Nothing else needs rich, which takes as long to load as numpy.
        return out.isatty() and self._console.is_terminal and not self._console.is_dumb_terminal

    def __enter__(self) -> Progress:
        self._begin = time.monotonic()
        self._marks = deque([(self._begin, 0)])
        if not self.quiet:
            if self.live:
                from mmdata.display import Live

                self._live = Live(self._draw(), console=self._console, auto_refresh=False, transient=True)
                self._live.start()
            self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._live is not None:
            self._live.stop()
        if not self.quiet:
            self._say(self.summary(stopped=kind is not None))

    def update(self, state: str, reason: str, count: int = 1) -> None:
        """So many more records have ended in `state` for `reason` (empty when they are kept). Call it from one
        thread."""
        end = (state, reason)
        self._counts[end] = self._counts.get(end, 0) + count

    def commit(self, unit: int, rows: int) -> None:
        """Unit number `unit` is committed, with `rows` samples in its shard."""
        self._units += 1
        self._rows += rows

    def note(self, text: str) -> None:
        """Say something that should not wait for the end; it scrolls away above the display."""
        if not self.quiet:
            self._say(text)

    def line(self) -> str:
        """The state of things in one line."""
        counts, seen = self._seen()
        parts = [f"{seen:,}/{self.total:,} records" if self.total is not None else f"{seen:,} records"]
        if self.total:
            parts[0] += f" ({100 * min(seen / self.total, 1):.0f}%)"
        parts.append(f"{self._rate(seen):,.0f}/s")
        parts += self._outcome(counts, seen)
        left = self._left(seen)
        if left is not None:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def summary(self, *, stopped: bool = False) -> str:
        """How the run went, in one line."""
        counts, seen = self._seen()
        took = time.monotonic() - self._begin
        speed = f" ({seen / took:,.0f}/s)" if took > 0 else ""
        units = f"{self._units:,} {'unit' if self._units == 1 else 'units'} committed"
        begin = f"{'stopped after ' if stopped else ''}{seen:,} records in {duration(took)}{speed}"
        return ", ".join([begin, *self._outcome(counts, seen), units])

    def _seen(self) -> tuple[dict[tuple[str, str], int], int]:
        counts = self._counts.copy()  # whole under the interpreter's lock, while `update` goes on
        return counts, sum(counts.values())

    def _outcome(self, counts: dict[tuple[str, str], int], seen: int) -> list[str]:
        if not seen:
            return []
        kept = sum(count for (state, _), count in counts.items() if state == "ok")
        lost = Counter[str]()
        for (state, reason), count in counts.items():
            if state != "ok":
                lost[reason or state] += count
        top = sorted(lost.items(), key=lambda item: (-item[1], item[0]))[:3]
        told = [f"{printable(reason)[:40]} {100 * count / seen:.1f}%" for reason, count in top]
        return [f"kept {100 * kept / seen:.1f}%", *told]

    def _rate(self, seen: int) -> float:
        """Records per second over the last `WINDOW` seconds, or since the beginning where that is shorter."""
        then, before = self._marks[0]
        return (seen - before) / max(time.monotonic() - then, 1e-9)

    def _left(self, seen: int) -> float | None:
        """Seconds that the rest will take at the present rate; None before there is one."""
        rate = self._rate(seen)
        if self.total is None or rate <= 0 or time.monotonic() - self._begin < 1:
            return None
        return max(self.total - seen, 0) / rate

    def _draw(self) -> Table:
        from mmdata.display import draw

        counts, seen = self._seen()
        left = self._left(seen)
        return draw(
            seen=seen,
            total=self.total,
            rate=self._rate(seen),
            left=f"{duration(left)} left" if left is not None else "",
            outcome=self._outcome(counts, seen),
        )

    def _watch(self) -> None:
        """The drawing thread."""
        period = min(REFRESH, self.interval)
        spoken = time.monotonic()
        while not self._ended.wait(period):
            now = time.monotonic()
            _, seen = self._seen()
            self._marks.append((now, seen))
            while len(self._marks) > 1 and self._marks[0][0] < now - WINDOW:
                self._marks.popleft()
            if self._live is not None:
                with contextlib.suppress(OSError):
                    self._live.update(self._draw(), refresh=True)
            elif now - spoken >= self.interval:
                spoken = now
                self._say(self.line())

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a log that cannot be written is no reason to stop a build
            if self._live is None:
                print(printable(text), file=self._file or sys.stderr, flush=True)
            else:
                from mmdata.display import Text

                self._live.console.print(Text(printable(text)))


def duration(seconds: float) -> str:
    """A time span for a status line.

    >>> duration(7.3), duration(125), duration(7384)
    ('7.3 s', '2 min 5 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def printable(text: str) -> str:
    """Text without control characters: a reason or address from the web must not steer the terminal.

    >>> printable("a\\x1b[2Jb")
    'a�[2Jb'
    """
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
