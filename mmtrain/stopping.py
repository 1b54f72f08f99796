"""Early stopping: whether a run goes on, by what its evaluations found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from mmdata.errors import SpecError
from mmdata.registry import nearest
from mmdata.spec import Model


class StoppingSpec(Model):
    """When a run ends before its last step."""

    metric: str = "loss"
    """What of an evaluation tells: `loss` (over all held-out data), `NAME/loss`, `NAME/exact_match` ..."""
    patience: int = Field(3, ge=0)
    """Evaluations in a row that may be no better than the best; one more ends the run."""
    mode: Literal["min", "max"] = "min"
    """Whether less is better, or more."""
    min_delta: float = Field(0.0, ge=0)
    """By how much a better one is better at least."""


class Stopping:
    """Counts evaluations that are no better; `state_dict` is JSON."""

    def __init__(self, spec: StoppingSpec) -> None:
        self.spec = spec
        self.best: float | None = None
        self.worse = 0
        """Evaluations in a row since the best."""

    @property
    def stop(self) -> bool:
        """Whether the run is to end."""
        return self.worse > self.spec.patience

    def tell(self, value: float) -> bool:
        """Take the value of an evaluation; whether it is the best so far. One that is not finite never is."""
        lower = self.spec.mode == "min"
        gain = math.inf if self.best is None else (self.best - value if lower else value - self.best)
        better = math.isfinite(value) and gain > self.spec.min_delta
        self.best, self.worse = (value, 0) if better else (self.best, self.worse + 1)
        return better

    def value_in(self, values: Mapping[str, float]) -> float:
        """The value that counts, of those of an evaluation. Raises SpecError where there is none of the name."""
        if self.spec.metric not in values:
            raise SpecError(f"early_stopping.metric: {self.spec.metric!r}; {nearest(self.spec.metric, list(values))}")
        return values[self.spec.metric]

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "worse": self.worse}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.best, self.worse = saved["best"], saved["worse"]
