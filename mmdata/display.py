"""How a build's progress looks on a terminal. Apart from `progress`, because rich takes a while to load and a quiet
build shows nothing."""

from __future__ import annotations

import sys
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ["Live", "Text", "console", "draw"]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more: fall silent. Rich would end the program, and a build with it."""
        self.quiet = True


def console(file: IO[str] | None) -> Console:
    """A console on `file` (default: standard error) that shows text as it is."""
    return _Console(file=file or sys.stderr, highlight=False, markup=False, soft_wrap=True)


def draw(*, seen: int, total: int | None, rate: float, left: str, outcome: list[str]) -> Table:
    """Two lines: how far, how fast and how long still; then what became of the records."""
    bar = ProgressBar(
        total=total, completed=seen, width=32, pulse=total is None, complete_style="cyan", finished_style="cyan"
    )
    done = f"{seen:,} of {total:,}" if total is not None else f"{seen:,}"
    table = Table.grid(padding=(0, 2))
    table.add_row(bar, Text(f"{done} records"), Text(f"{rate:,.0f}/s", style="bold"), Text(left, style="dim"))
    whole = Table.grid()
    whole.add_row(table)
    whole.add_row(Text(" · ".join(outcome) if outcome else "waiting for the first record", style="dim"))
    return whole
