"""Multi-task balance: how much the mean loss of each task counts in a step, or how often its samples come.

A step's loss is sum over tasks of weight * mean loss, each mean over the task's targets in all packs of all ranks. So a
task counts by its weight, however many tokens it has in the step. Weights are known before the step: they depend on the
config and on the losses of steps before, which are sums over all ranks; so every rank has the same, and they do not
depend on how packs are dealt to passes and ranks. What they depend on is in every checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdata.errors import SpecError
from mmtrain.balance.gradnorm import GradNorm
from mmtrain.balance.sampling import Sampling
from mmtrain.balance.spec import (
    BalanceSpec,
    FixedSpec,
    GradNormSpec,
    InverseLossSpec,
    SamplingSpec,
    UncertaintySpec,
)
from mmtrain.balance.weights import Balance, Fixed, InverseLoss, Uncertainty

if TYPE_CHECKING:
    from mmtrain.job import Job

PART = "balance"
"""Its name among a job's parts."""

__all__ = [
    "PART",
    "Balance",
    "BalanceSpec",
    "Fixed",
    "FixedSpec",
    "GradNorm",
    "GradNormSpec",
    "InverseLoss",
    "InverseLossSpec",
    "Sampling",
    "SamplingSpec",
    "Uncertainty",
    "UncertaintySpec",
    "started",
]


def started(job: Job) -> Balance:
    """The balance of a job's config, at its beginning; what it learns joins the job's optimiser. Raises SpecError where
    the job cannot be balanced so."""
    spec = job.spec.balance
    if getattr(job.model.config, "objective", "language") != "language" and not isinstance(spec, SamplingSpec):
        raise SpecError(
            "balance: it weighs the losses of a language model; this one has another objective (sampling goes)"
        )
    match spec:
        case FixedSpec():
            return Fixed(spec)
        case InverseLossSpec():
            return InverseLoss(spec)
        case UncertaintySpec():
            return Uncertainty(spec, job.optim)
        case GradNormSpec():
            return GradNorm(spec, job)
        case SamplingSpec():
            return Sampling(spec, job)
    raise ValueError("the config has no balance")
