"""The ordered steps of a build: what they remember, and their decisions, taken in input order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmdata.spec import BuildSpec, ExpectingState, OrderedState, OrderedStepSpec

if TYPE_CHECKING:
    from mmdata.engine.local import Row

_FORESEEN = 1000
"""Rows at a time: so many searches take about as long as ten alone, and what they find is kept meanwhile."""


class OrderedSteps:
    """The ordered steps of a pipeline and what they remember; decisions are taken in input order."""

    def __init__(self, spec: BuildSpec) -> None:
        self._states: dict[int, OrderedState] = {
            number: step.state() for number, step in enumerate(spec.steps) if isinstance(step, OrderedStepSpec)
        }

    def foreseen(self, rows: Sequence[Row]) -> Iterator[Row]:
        """The rows in their order, each to be decided as it comes; states that search are told of some ahead."""
        for at in range(0, len(rows), _FORESEEN):
            some = rows[at : at + _FORESEEN]
            for number, state in self._states.items():
                if isinstance(state, ExpectingState):
                    state.expect([row.signatures[number] for row in some if number in row.signatures])
            yield from some

    def decide(self, row: Row) -> None:
        """Reject the row if an ordered step does, else remember it if the build keeps it.

        A row that a later map step rejects is remembered by nobody: a duplicate repeats a *kept* row.
        """
        key = row.record.sample.key
        for number, state in self._states.items():
            if number in row.signatures and (row.step is None or number < row.step):
                drop = state.check(key, row.signatures[number])
                if drop is not None:
                    row.drop, row.step = drop, number
                    return
        if row.drop is None:
            self.keep(key, merged(row.signatures))

    def keep(self, key: str, signatures: dict[str, bytes]) -> None:
        """Remember a kept row, for example one committed by an earlier run."""
        for state in self._states.values():
            state.keep(key, signatures)


def merged(signatures: dict[int, dict[str, bytes]]) -> dict[str, bytes]:
    """The signatures of all steps as the index stores them."""
    return {name: value for step in signatures.values() for name, value in step.items()}
