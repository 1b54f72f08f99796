"""The options that every benchmark has beside its own."""

from __future__ import annotations

import argparse
import compileall
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def parser(about: str | None) -> argparse.ArgumentParser:
    """One that shows a module's text as it is."""
    return argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_ours(made: argparse.ArgumentParser) -> None:
    """`--ours PASSES`, for `benchmarks.profiles`: peers are left out, and there are no results."""
    made.add_argument("--ours", type=int, metavar="PASSES", help="only ours, so many times; no results")


def repeat(passes: int, calls: Iterable[Callable[[], object]]) -> None:
    """Each call once, then in a function of its own that a profile can tell from it, `passes` times over."""
    calls = list(calls)
    for call in calls:
        call()
    measured(passes, calls)


def measured(passes: int, calls: Iterable[Callable[[], object]]) -> None:
    for _ in range(passes):
        for call in calls:
            call()


def parse(made: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """Parse the command line. With `--quick`, options that are not given have the values of `quick`."""
    told = " ".join(f"--{name.replace('_', '-')} {_text(value)}" for name, value in quick.items())
    made.add_argument("--quick", action="store_true", help=f"small sizes: {told}" if told else "as without it")
    made.add_argument("--json", type=Path, help="write the results here, not into benchmarks/results")
    if "--quick" in sys.argv[1:]:
        made.set_defaults(**quick)
    options = made.parse_args()
    # Peers are installed packages, which come compiled; a checkout may not be (PYTHONDONTWRITEBYTECODE).
    compileall.compile_dir(Path(__file__).parent.parent / "mmdata", quiet=1)
    return options


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
