"""The soak: kills, damaged media and a failing web without end in sight, and one command that says what was lost."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m mmdata.testing.soak`; see its `--help`."""
    from mmdata.testing.soak import __main__ as command

    return command.main(argv)
