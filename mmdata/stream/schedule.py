"""Schedules: what datasets weigh in each block of a mixture, a pure function of spec, control log and block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from mmdata.errors import SpecError
from mmdata.stream.fair import parts
from mmdata.stream.mixture import DatasetSpec, Stage

Controlled = Callable[[int], Mapping[str, Fraction]]
"""Weights that were set while the run went on, by name, for a block."""


def weights_of(
    datasets: Sequence[DatasetSpec],
    schedule: Sequence[Stage],
    *,
    block_samples: int,
    controlled: Controlled = lambda block: {},
) -> Callable[[int], tuple[int, ...]]:
    """The weights of a block as whole parts (`fair.PARTS`), by its number, for `Mixer`. What was set while the run went
    on holds from its block on, whatever the schedule says. Raises SpecError for a block in which all weigh nothing."""
    names = [each.title for each in datasets]

    def weights(block: int) -> tuple[int, ...]:
        now = scheduled(datasets, schedule, block * block_samples)
        for name, weight in controlled(block).items():
            if name not in now:
                raise SpecError(f"control log: no dataset is called {name}; there are {', '.join(names)}")
            now[name] = weight
        if not any(now.values()):
            raise SpecError(f"schedule: in block {block} every dataset weighs 0; give one a weight")
        return parts([now[name] for name in names])

    return weights


def coming(
    datasets: Sequence[DatasetSpec],
    schedule: Sequence[Stage],
    block: int,
    *,
    block_samples: int,
    controlled: Sequence[tuple[int, Mapping[str, float]]] = (),
) -> list[bool]:
    """Of each dataset whether it weighs anything in a block or in a later one, as far as schedule and control log (from
    which block on, and what) say by now. On its way from one stage to the next no weight is 0 but at an end, so that
    the blocks around stages are all that has to be seen.

    >>> both = [DatasetSpec(path="a", weight=1), DatasetSpec(path="b", weight=0)]
    >>> stages = [Stage(at=100, weights={"b": 0.5}), Stage(at=200, weights={"a": 0, "b": 0})]
    >>> [coming(both, stages, block, block_samples=100) for block in (0, 1, 2)]
    [[True, True], [True, True], [False, False]]
    """
    begins = [begin for begin, _ in controlled]
    begins += [near for stage in schedule for near in (stage.at // block_samples, -(-stage.at // block_samples))]
    found = dict.fromkeys((each.title for each in datasets), False)
    for at in {block, *(later for later in begins if later > block)}:
        now: dict[str, Fraction | float] = dict(scheduled(datasets, schedule, at * block_samples))
        for begin, weights in controlled:
            if begin <= at:
                now |= weights
        for name in found:
            found[name] |= now[name] > 0
    return list(found.values())


def scheduled(datasets: Sequence[DatasetSpec], schedule: Sequence[Stage], at: int) -> dict[str, Fraction]:
    """The weight of each dataset by name, `at` samples into the stream.

    >>> both = [DatasetSpec(path="a", weight=1), DatasetSpec(path="b", weight=0)]
    >>> stages = [Stage(at=100, weights={"b": 0.5}), Stage(at=200, weights={"b": 1.5}, change="linear")]
    >>> [float(scheduled(both, stages, at)["b"]) for at in (0, 99, 100, 150, 200, 900)]
    [0.0, 0.0, 0.5, 1.0, 1.5, 1.5]
    """
    now = {each.title: exact(each.weight or 0) for each in datasets}
    before = 0
    for stage in schedule:
        share = Fraction(1)
        if at < stage.at:
            if stage.change == "step":
                break
            share = Fraction(at - before, stage.at - before)
        if stage.change == "cosine" and share < 1:
            # In billionths, so that the last bit of a machine's cosine decides nothing.
            share = Fraction(round((1 - math.cos(math.pi * float(share))) / 2 * 10**9), 10**9)
        for name, weight in stage.weights.items():
            now[name] += (exact(weight) - now[name]) * share
        if at < stage.at:
            break
        before = stage.at
    return now


def exact(weight: float) -> Fraction:
    """The number as it was written: 0.1 is a tenth."""
    return Fraction(repr(weight))
