"""The options that every benchmark has beside its own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def parser(about: str | None) -> argparse.ArgumentParser:
    """One that shows a module's text as it is."""
    return argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def parse(made: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """Parse the command line. With `--quick`, options that are not given have the values of `quick`."""
    told = " ".join(f"--{name.replace('_', '-')} {_text(value)}" for name, value in quick.items())
    made.add_argument("--quick", action="store_true", help=f"small sizes: {told}" if told else "as without it")
    made.add_argument("--json", type=Path, help="write the results here, not into benchmarks/results")
    if "--quick" in sys.argv[1:]:
        made.set_defaults(**quick)
    return made.parse_args()


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
