"""What a run may be told of the balance of its tasks."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mmdata.spec import Model


class _Named(Model):
    tasks: tuple[str, ...] = Field(min_length=2)
    """The tasks, each a `task` of samples or the name of a dataset. A sample of another stops the run."""

    @field_validator("tasks")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [task for task, count in Counter(value).items() if count > 1]:
            raise ValueError(f"{twice[0]} stands there twice")
        return value


class FixedSpec(Model):
    """Weights that stay: the loss is the sum of weight * mean loss over tasks."""

    kind: Literal["fixed"] = "fixed"
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(min_length=1)
    """Of every task, by name."""

    @model_validator(mode="after")
    def _something(self) -> FixedSpec:
        if not any(self.weights.values()):
            raise ValueError("weights: all are 0, and nothing would be learned; give one more")
        return self


class InverseLossSpec(_Named):
    """Weights in inverse proportion to the tasks' losses, together 1: each task contributes alike."""

    kind: Literal["inverse_loss"] = "inverse_loss"
    smoothing: float = Field(0.9, ge=0, lt=1)
    """What is kept of a task's mean loss when a new one comes; 0 takes that of the last step that had the task."""


class UncertaintySpec(_Named):
    """Weights exp(-s) with a learned s = log(variance) of each task (Kendall, Gal & Cipolla, 2018, for likelihoods such
    as ours): the loss is the sum of exp(-s) * mean loss + s / 2, so s comes to rest where exp(s) = 2 * mean loss."""

    kind: Literal["uncertainty"] = "uncertainty"
    initial: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    """Where s begins, by task; 0 for others."""
    lr: float = Field(0.01, gt=0)
    """Peak rate of s in the run's optimiser, under its schedule, without decay or clipping."""

    @model_validator(mode="after")
    def _of_tasks(self) -> UncertaintySpec:
        if strange := sorted(self.initial.keys() - set(self.tasks)):
            raise ValueError(f"initial: {strange[0]} is none of the tasks")
        return self


class GradNormSpec(_Named):
    """Weights that are learned so that the tasks' gradients at a shared layer are of like length, longer for tasks that
    lag behind (Chen et al., 2018); together as many as tasks."""

    kind: Literal["gradnorm"] = "gradnorm"
    alpha: float = Field(1.5, ge=0)
    """How strongly tasks that lag are pulled up; 0 makes gradients equally long."""
    layer: str | None = None
    """Parameters that are measured, a pattern of whole aliases as in `parameters`; by default all that is trained of
    the last layer of the language model."""
    lr: float = Field(0.025, gt=0)
    """Peak rate of the weights in the run's optimiser, under its schedule, without decay or clipping."""
    every: int = Field(1, ge=1)
    """Steps between measurements. Each costs a backward pass down to the layer for every task."""


class SamplingSpec(Model):
    """Datasets are drawn by how badly they are learned: weight * exp(loss / temperature), written to the stream's
    control log, which the weights of the mixture follow. Losses are not weighted."""

    kind: Literal["sampling"] = "sampling"
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """In nats: high ones leave the weights as they are in `data.datasets`, low ones draw what is learned worst."""
    every: int = Field(100, ge=1)
    """Steps between changes."""
    smoothing: float = Field(0.9, ge=0, lt=1)
    """As in `inverse_loss`."""
    ahead: int = Field(3, ge=1)
    """Blocks after the one that the run is in, from which on a change holds: more than are planned ahead."""


BalanceSpec = Annotated[
    FixedSpec | InverseLossSpec | UncertaintySpec | GradNormSpec | SamplingSpec, Field(discriminator="kind")
]
