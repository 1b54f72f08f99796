"""What a run may be told to watch for: the `watch` section of its spec."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmdata.spec import Model


class SpikeSpec(Model):
    """When a loss is out of all proportion to those before."""

    window: int = Field(64, ge=2)
    """Steps that are compared with, the last that were taken; there is no spike before there are so many."""
    factor: float = Field(4.0, gt=1)
    """A loss of more than so many times their median is a spike."""


class DriftSpec(Model):
    """How far the vision tower goes from where it began, as the cosine of its features of fixed pictures."""

    every: int = Field(100, ge=1)
    """Steps between measurements."""
    samples: int = Field(4, ge=1)
    """The first samples of the stream that have pictures."""


class WatchSpec(Model):
    """What happens to a step whose loss or gradient is not finite, or whose loss leaps."""

    on_nonfinite: Literal["skip", "stop"] = "skip"
    """`skip` leaves the step out, on all ranks, and goes on; `stop` ends the run. Nothing is moved either way."""
    max_skips: int = Field(10, ge=0)
    """More steps than this left out in a row end the run."""
    spike: SpikeSpec | None = None
    """When a step is left out for the size of its loss; null: never."""
    drift: DriftSpec | None = None
    """Whether, and how often, the log tells `drift/vision`: 1 where the tower has not moved."""
