"""Early stopping: whether a run goes on, by what its evaluations found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from mmdata.errors import SpecError
from mmdata.registry import nearest
from mmdata.spec import Model
from mmtrain.metrics import LOWER_IS_BETTER, METRICS, OF_BOXES


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


_ANSWERED = (*METRICS, *OF_BOXES)
_MORE_IS_BETTER = (*_ANSWERED, "choice", "event_f1", "action_f1", "rewards/accuracies", "rewards/margins")


def check(spec: StoppingSpec | None, evaluation: Any) -> None:
    """Raises SpecError where it does not fit the run's evaluation (`EvaluationSpec` or its kin). Names that only an
    evaluation can tell, of tasks say, are taken as they are."""
    if spec is not None and (wrong := _problem(spec, evaluation)):
        raise SpecError(wrong)


def _problem(spec: StoppingSpec, evaluation: Any) -> str | None:
    if evaluation is None:
        return "early_stopping: nothing is evaluated, so nothing would end the run; set evaluation, or leave it out"
    if spec.metric == "loss":
        return _sense(spec, "loss")
    names = list(evaluation.data) or ["held_out"]
    name = next((each for each in names if spec.metric.startswith(f"{each}/")), None)
    if name is None:
        known = ["loss", *(f"{each}/loss" for each in names)]
        return f"early_stopping.metric: {spec.metric!r}; {nearest(spec.metric, known)}"
    measure = spec.metric.removeprefix(f"{name}/")
    if measure in _ANSWERED and measure not in getattr(evaluation, "metrics", (measure,)):
        return f"early_stopping.metric: {spec.metric}: evaluation.metrics has no {measure}; add it there"
    if measure in _ANSWERED and not getattr(evaluation, "generate", 1):
        return f"early_stopping.metric: {spec.metric}: evaluation.generate: 0 answers nothing; set generate"
    return _sense(spec, measure)


def _sense(spec: StoppingSpec, measure: str) -> str | None:
    """What is wrong with `mode` where it is known which is better of a measure, or None."""
    if measure == "loss" or measure.startswith("loss/") or measure in LOWER_IS_BETTER:
        right = "min"
    elif measure in _MORE_IS_BETTER:
        right = "max"
    else:
        return None
    if spec.mode == right:
        return None
    better = {"min": "less", "max": "more"}[right]
    return f"early_stopping.mode: {spec.mode}: of {spec.metric} {better} is better; set mode: {right}"


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
