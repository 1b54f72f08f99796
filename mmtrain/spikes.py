"""Which steps of a log stand out: losses that leap above what the steps before let expect, by one stated rule."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

NEAR = 5
"""Steps before a step whose median tells the level that it is on."""
LEAST = 4
"""With fewer, and with fewer steps that were compared so, there is no expectation."""
WINDOW = 16
"""Steps before a step that tell how losses move from their level, and how widely they are scattered."""
LEAP = 6.0
"""Deviations above the expectation from which on a loss is a spike."""
FLOOR = 0.02
"""The least deviation, a share of the loss: one that has hardly varied yet may move a little."""
TINY = 1e-9
"""Losses below count as this."""
RULE = (
    f"a step is a spike where the run left it out, its loss is not finite, or lies more than {LEAP:g} deviations above "
    f"what is expected. r is the logarithm of a loss over the median of the {NEAR} losses before it; expected is that "
    f"median, moved as the median r of the last {WINDOW} steps moved; a deviation is 1.4826 times the median distance "
    f"of these r from their median, at least {FLOOR:g}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """A step and what was expected of it."""

    step: int
    loss: float
    """As the log has it; not a number where that was not finite."""
    expected: float
    """By the steps before; not a number where these are too few."""
    score: float
    """Deviations above it; infinite for a step that was left out, or is not finite."""
    skipped: str | None = None
    """Why the run left it out, if it did."""
    tasks: Mapping[str, float] = field(default_factory=dict)
    """What was expected of each task."""

    @property
    def leaps(self) -> bool:
        """Whether the rule calls it a spike."""
        return self.score > LEAP


def spikes(lines: Sequence[Mapping[str, Any]], steps: Collection[int] | None = None) -> list[Spike]:
    """Every step of a log (or of those in `steps`) against the steps before it, the greatest leap first; those of
    which nothing can be expected are left out.

    What is expected follows a loss that falls and no single outlier: Hampel's identifier (Davies and Gather 1993) on
    one-step forecasts, in logarithms, since losses fall by shares; 1.4826 makes the median distance a standard
    deviation where these are normal.

    >>> log = [{"step": n, "loss": 4.0 * 0.9**n} for n in range(12)] + [{"step": 12, "loss": 2.0}]
    >>> [(each.step, each.leaps, round(each.expected, 2)) for each in spikes(log)][:2]
    [(12, True, 1.13), (8, False, 1.72)]
    """
    taken: list[Mapping[str, Any]] = []
    moves: list[float] = []
    found = []
    for line in lines:
        loss, skipped = math.nan if line.get("loss") is None else float(line["loss"]), line.get("skipped")
        good = math.isfinite(loss) and skipped is None
        near, past = taken[-NEAR:], moves[-WINDOW:]
        level = median(each["loss"] for each in near) if len(near) >= LEAST else math.nan
        drift = median(past) if len(past) >= LEAST else math.nan
        move = math.log(max(loss, TINY) / max(level, TINY)) if good and near else math.nan
        if (steps is None or line["step"] in steps) and (not good or math.isfinite(level + drift)):
            deviation = max(1.4826 * median(abs(each - drift) for each in past), FLOOR) if good else math.nan
            found.append(
                Spike(
                    step=line["step"],
                    loss=loss,
                    expected=level * math.exp(drift),
                    score=(move - drift) / deviation if good else math.inf,
                    skipped=skipped,
                    tasks=_tasks(near, drift),
                )
            )
        if good and line.get("targets", 1):
            taken.append(line)
            if math.isfinite(move) and math.isfinite(level):
                moves.append(move)
    return sorted(found, key=lambda each: (-each.score, each.step))


def _tasks(near: Sequence[Mapping[str, Any]], drift: float) -> dict[str, float]:
    """What is expected of each task, of those whose losses enough steps tell."""
    found: dict[str, list[float]] = {}
    for line in near:
        for name, value in line.items():
            if name.startswith("loss/") and value is not None:
                found.setdefault(name.removeprefix("loss/"), []).append(value)
    return {
        name: median(values) * math.exp(drift)
        for name, values in found.items()
        if len(values) >= LEAST and math.isfinite(drift)
    }
