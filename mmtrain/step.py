"""One optimiser step: losses of all packs over the weights of all, one finite gate, one move."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mmdata import rng
from mmdata.errors import RunError
from mmdata.stream.loader import Batch
from mmtrain.distributed import add_gradients, sums
from mmtrain.job import Job
from mmtrain.objective import loss_sum, target_weights
from mmtrain.optim import schedule, set_rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one optimiser step did."""

    loss: float
    """Weighted mean cross-entropy of the step's targets, in nats."""
    grad_norm: float
    weight: float


def train_step(job: Job, batches: list[Batch]) -> Step:
    """Take step `job.step` with this rank's batches of it; the caller counts it.

    The loss is the sum over all packs of all ranks divided by the weights of all of them, so it does not depend on how
    targets are spread over packs, or packs over ranks; nor do dropout's draws, which are keyed by step and pack. A step
    without targets moves nothing. Raises RunError, on every rank and before anything moved, for a loss or gradient that
    is not finite.
    """
    spec, model, world = job.spec, job.model, job.world
    (total,) = sums([float(sum(target_weights(batch, spec.loss_norm).sum() for batch in batches))], world)
    if not total:
        return Step(loss=0.0, grad_norm=0.0, weight=0.0)
    job.optim.zero_grad(set_to_none=True)
    loss = 0.0
    for batch in batches:
        torch.manual_seed(int(rng.generator("step", spec.seed, job.step, *batch["keys"]).integers(2**63)))
        summed, _ = loss_sum(model, batch, spec.loss_norm, job.strategy)
        part = summed / total
        part.backward()
        loss += float(part.detach())
    add_gradients(model.parameters(), world)
    (loss,) = sums([loss], world)
    length = float(torch.nn.utils.clip_grad_norm_(model.parameters(), spec.optim.clip))
    if not (math.isfinite(loss) and math.isfinite(length)):
        keys = [key for batch in batches for key in batch["keys"]]
        raise RunError(
            f"step {job.step}: loss {loss}, gradient norm {length}; the weights were not moved. Samples: {keys}"
        )
    set_rates(job.optim, schedule(job.step, spec.steps, spec.optim))
    job.optim.step()
    return Step(loss=loss, grad_norm=length, weight=total)
