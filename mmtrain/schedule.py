"""The learning rate over a run: a warm-up, then one curve or several phases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from mmdata.errors import SpecError
from mmdata.spec import Model

Curve = Literal["constant", "linear", "cosine", "sqrt"]
"""How a phase goes from one rate to another, by its progress p: not at all, by p, (1 - cos(pi p)) / 2, or the root
of p (the `1-sqrt` decay of Hägele et al., 2024)."""
Kind = Literal["constant", "linear", "cosine", "wsd"]


class Phase(Model):
    """A part of the run after the warm-up, with rates as shares of the peak."""

    until: float | None = Field(None, gt=0, le=1)
    """Share of all steps at which it ends,"""
    steps: int | None = Field(None, ge=1)
    """or how many it has; the last phase may leave out both and goes on to the end."""
    curve: Curve = "constant"
    start: float | None = Field(None, ge=0)
    """Rate at its first step; by default where the phase before ended, or the peak."""
    to: float | None = Field(None, ge=0)
    """Rate at its last step; a `constant` phase has none."""

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        if self.until is not None and self.steps is not None:
            raise ValueError("a phase ends at a share of the run (`until`) or after `steps`; leave one out")
        if (self.curve == "constant") != (self.to is None):
            raise ValueError("`to` says where a linear, cosine or sqrt phase goes; a constant one goes nowhere")
        return self


class ScheduleSpec(Model):
    """How the rate runs."""

    schedule: Kind | tuple[Phase, ...] = "cosine"
    """After the warm-up: `constant`; `linear` or `cosine` down to `min_lr` at the last step; `wsd`, constant and then
    down to `min_lr` over the last `decay_share` of the steps; or a list of phases."""
    min_lr: float = Field(0.1, ge=0, le=1)
    """Last learning rate of `linear`, `cosine` and `wsd`, as a share of the peak."""
    warmup_steps: int = Field(5, ge=0)
    """Steps in which the rate rises from zero."""
    decay_share: float = Field(0.2, gt=0, le=1)
    """Of `wsd`: share of all steps."""
    decay_curve: Literal["linear", "cosine", "sqrt"] = "sqrt"
    """Of `wsd`."""

    @model_validator(mode="after")
    def _phases_end(self) -> Self:
        if isinstance(self.schedule, str):
            return self
        if not self.schedule:
            raise ValueError("schedule: a list of phases needs one at least")
        for number, phase in enumerate(self.schedule[:-1]):
            if phase.until is None and phase.steps is None:
                raise ValueError(
                    f"schedule.{number}: only the last phase goes on to the end; give it `until` or `steps`"
                )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Steps first <= s < stop, from rate `start` at the first to `to` at the last."""

    first: int
    stop: int
    start: float
    to: float
    curve: Curve

    def at(self, step: int) -> float:
        p = min(1.0, (step - self.first) / max(1, self.stop - 1 - self.first))
        match self.curve:
            case "constant":
                return self.start
            case "linear":
                share = p
            case "cosine":
                share = (1 - math.cos(math.pi * p)) / 2
            case "sqrt":
                share = math.sqrt(p)
        return self.start + (self.to - self.start) * share


def segments(steps: int, spec: ScheduleSpec) -> tuple[Segment, ...]:
    """The phases after the warm-up, of a run of `steps`. Raises SpecError for a phase that ends before it begins."""
    first, rate = spec.warmup_steps, 1.0
    result = []
    for number, phase in enumerate(_phases(steps, spec)):
        start = rate if phase.start is None else phase.start
        rate = start if phase.to is None else phase.to
        if phase.until is not None:
            stop = round(phase.until * steps)
        else:
            stop = max(first, steps) if phase.steps is None else first + phase.steps
        if stop < first or (stop == first and phase.until is not None and steps > first):
            raise SpecError(
                f"optim.schedule.{number}: it ends at step {stop} of {steps} and begins at {first}; "
                "make it end later, or the warm-up shorter"
            )
        result.append(Segment(first=first, stop=stop, start=start, to=rate, curve=phase.curve))
        first = stop
    return tuple(result)


def problem(steps: int, spec: ScheduleSpec) -> str | None:
    """What is wrong with a schedule of a run of `steps`, or None."""
    try:
        segments(steps, spec)
    except SpecError as error:
        return str(error)
    return None


def _phases(steps: int, spec: ScheduleSpec) -> tuple[Phase, ...]:
    match spec.schedule:
        case "constant":
            return (Phase(),)
        case "linear" | "cosine":
            return (Phase(curve=spec.schedule, to=spec.min_lr),)
        case "wsd":
            decay = Phase(curve=spec.decay_curve, to=spec.min_lr)
            stable = steps - round(spec.decay_share * steps) - spec.warmup_steps
            return (Phase(steps=stable), decay) if stable > 0 else (decay,)
        case phases:
            return phases


def schedule(step: int, steps: int, spec: ScheduleSpec) -> float:
    """The share of the peak rate in step 0 <= step < steps: linear from zero over the warm-up, then its phases; what
    comes after the last one stays at its rate.

    The rate of the first step is not zero but a warm-up step's, and the last step has the last rate: over the decay
    this is transformers' `get_cosine_with_min_lr_schedule_with_warmup` (and its kin) of steps - 1.

    >>> spec = ScheduleSpec(warmup_steps=2, min_lr=0.1)
    >>> [round(schedule(s, 6, spec), 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.775, 0.325, 0.1]
    """
    if step < spec.warmup_steps:
        return (step + 1) / spec.warmup_steps
    phases = segments(steps, spec)
    return next((phase for phase in phases if step < phase.stop), phases[-1]).at(step)
