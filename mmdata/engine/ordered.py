"""The ordered steps of a build: what they remember, and their decisions, taken in input order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mmdata.spec import BuildSpec, ExpectingState, OrderedState, OrderedStepSpec, StepSpec

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
        self._behind = _behind(spec.steps)

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
            self.keep(key, self.stored(row.signatures))

    def keep(self, key: str, signatures: dict[str, bytes]) -> None:
        """Remember a kept row by what is stored of it, for example one committed by an earlier run."""
        for number, state in self._states.items():
            state.keep(key, self._own(number, signatures))

    def stored(self, signatures: dict[int, dict[str, bytes]]) -> dict[str, bytes]:
        """The signatures of all steps as the index stores them."""
        return {f"{name}{self._behind[at]}": value for at, step in signatures.items() for name, value in step.items()}

    def _own(self, number: int, stored: dict[str, bytes]) -> dict[str, bytes]:
        """What is stored without what other steps of the kind have stored."""
        if not any(self._behind.values()):
            return stored
        if behind := self._behind[number]:
            return {name.removesuffix(behind): value for name, value in stored.items() if name.endswith(behind)}
        others = tuple(filter(None, self._behind.values()))
        return {name: value for name, value in stored.items() if not name.endswith(others)}


def _behind(steps: Sequence[StepSpec]) -> dict[int, str]:
    """What is put behind the names of each ordered step's signatures, since the steps of a kind give theirs the same
    ones: nothing for the first of a kind, `#2` for the second."""
    seen: Counter[str] = Counter()
    found = {}
    for number, step in enumerate(steps):
        if isinstance(step, OrderedStepSpec):
            seen[step.kind] += 1
            found[number] = f"#{seen[step.kind]}" if seen[step.kind] > 1 else ""
    return found
