"""One optimiser step: losses of all packs over the weights of all, one finite gate, one move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from mmdata import rng
from mmdata.stream.loader import Batch
from mmtrain import auxiliary, optim
from mmtrain.balance.weights import balanced, task_groups
from mmtrain.distributed import add_gradients, gather, sums
from mmtrain.ema import PART, Ema
from mmtrain.gate import Reason, quarantine
from mmtrain.job import Job
from mmtrain.objective import losses
from mmtrain.precision import LEAST, LossScale, autocast
from mmtrain.schedule import schedule
from mmtrain.scheduled_sampling import banned, keep_probability, mixed
from mmtrain.weighting import by_task, merged, step_weights

Part = Callable[[Batch, torch.Tensor], tuple[torch.Tensor, Mapping[str, tuple[float, float]]]]
"""Of a batch and the weights of its labels: what it adds to the step's loss before that is divided by `total`, a scalar
with its gradient; and its sums by task (`Step.tasks`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one optimiser step did."""

    loss: float
    """Weighted mean cross-entropy of the step's targets, in nats, without auxiliary losses."""
    grad_norm: float
    """Of the whole gradient, before clipping."""
    weight: float
    """Sum of the weights of all targets."""
    norms: Mapping[str, float] = field(default_factory=dict)
    """Of the gradient of each part (vision, connector, ...), before clipping."""
    tasks: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of each task of the step, all ranks together: the sum of weight * loss over its targets, and of their weights."""
    task_weights: Mapping[str, float] = field(default_factory=dict)
    """What the mean loss of each task was multiplied by, or its share of the mixture (`mmtrain.balance`)."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """The mean of each auxiliary loss over the step's units (`mmtrain.auxiliary`), before its weight."""
    values: Mapping[str, float] = field(default_factory=dict)
    """What else the log tells of it, by the names that it has there."""
    moved: bool = True
    """Whether weights were moved: not in a step without targets, nor in one of fp16 that overflowed, nor in one that
    was skipped."""
    skipped: Reason | None = None
    """Why the gate left it out, if it did."""


def train_step(job: Job, batches: list[Batch]) -> Step:
    """Take step `job.step` with this rank's batches of it; the caller counts it.

    The loss is the sum over all packs of all ranks divided by the weights of all of them, so it does not depend on how
    targets are spread over packs, packs over forward passes, or these over ranks; nor do dropout's draws, which are
    keyed by step and pack (its dummies among it, in a sharded model). A step without targets moves nothing, nor does
    an overflow of fp16, nor a step that the gate leaves out on every rank. Raises RunError, on every rank, where the
    gate says that the run must not go on.
    """
    spec, scale = job.spec, job.parts.get("loss_scale")
    assert scale is None or isinstance(scale, LossScale)
    progress = job.step / spec.steps
    weights = [
        step_weights(
            batch, spec.loss_norm, phases=spec.token_weight_schedule, progress=progress, tasks=spec.task_weights
        )
        for batch in batches
    ]
    named = [*spec.task_weights]
    here = {task for batch in batches for task in batch.get("tasks", ())} if named else set()
    given = float(sum(each.sum() for each in weights))
    total, *met = sums([given, *(float(task in here) for task in named)], job.world)
    job.gate.meet(task for task, ranks in zip(named, met, strict=True) if ranks)
    shares: dict[str, float] = {}
    if job.balance is not None:
        weights, shares = balanced(job.balance, batches, weights, job.world)
    job.monitor.start()
    if not total:
        job.gate.empty += 1
        return Step(loss=0.0, grad_norm=0.0, weight=0.0, moved=False)
    loss, tasks, terms = backward(job, batches, weights, total, 1.0 if scale is None else scale.scale)
    if named:
        job.gate.meet(tasks)
    norms = optim.gradient_norms(job.optim)
    length = optim.total(norms)
    sampling = spec.scheduled_sampling
    told = {} if sampling is None else {"words_kept": keep_probability(sampling, job.step)}
    result = Step(
        loss=loss,
        grad_norm=length,
        weight=total,
        norms=norms,
        tasks=tasks,
        task_weights=shares,
        terms=terms,
        values=told,
    )
    whole = loss + sum(job.terms[name].weight * value for name, value in terms.items())
    return finish(job, batches, result, whole)


def finish(job: Job, batches: Sequence[Batch], result: Step, whole: float) -> Step:
    """Move the weights by the gradients that they have, if the gate lets the step pass; `whole` is its loss with all
    that is added to it. Raises RunError as `train_step` does."""
    spec, scale, length, norms = job.spec, job.parts.get("loss_scale"), result.grad_norm, result.norms
    optim.set_rates(job.optim, schedule(job.step, spec.steps, spec.optim))  # the log tells them of steps left out too
    if isinstance(scale, LossScale):
        scale.update(finite=math.isfinite(length))
        if math.isfinite(whole) and not math.isfinite(length) and scale.scale >= LEAST:
            return replace(result, moved=False)
    if (reason := job.gate.judge(whole, length, job.world)) is not None:
        keys = [key for batch in batches for key in batch["keys"]]
        quarantine(job.folder, job.step, reason, keys, job.world)
        job.gate.check(reason, job.step, keys)
        return replace(result, moved=False, skipped=reason)
    optim.clip(job.optim, norms, spec.optim.limits)
    if job.balance is not None:
        job.balance.learn({task: each / weight for task, (each, weight) in result.tasks.items()}, job.world)
    job.optim.step()
    if job.balance is not None:
        job.balance.settle(job.step)
    if isinstance(average := job.parts.get(PART), Ema):
        average.update(job.model, job.step)
    job.monitor.lap("compute")
    return result


def language(job: Job, total: float, scale: float) -> Part:
    """The sum over a batch's targets of weight * cross-entropy. A balance that wants to know of the tasks' gradients is
    told."""
    balance = job.balance if job.balance is not None and job.balance.measures(job.step) else None
    sampling = job.spec.scheduled_sampling
    never = None if sampling is None else banned(job.tokenizer)

    def part(batch: Batch, weight: torch.Tensor) -> tuple[torch.Tensor, Mapping[str, tuple[float, float]]]:
        if sampling is not None and never is not None:
            own = {"seed": job.spec.seed, "step": job.step}
            batch = mixed(job.model, batch, weight, job.strategy, sampling, never=never, **own)
        groups = None if balance is None else task_groups(batch, balance.tasks)
        summed, each = losses(job.model, batch, weight, job.strategy, groups)
        if balance is not None:
            balance.measure(summed / total, scale)
        return summed.sum(), by_task(batch, each, weight)

    return part


def backward(
    job: Job,
    batches: Sequence[Batch],
    weights: Sequence[torch.Tensor],
    total: float,
    scale: float = 1.0,
    *,
    part: Part | None = None,
) -> tuple[float, dict[str, tuple[float, float]], dict[str, float]]:
    """Leave in the parameters the gradient of the step's loss, all ranks together, and answer that loss, its sums by
    task (`Step.tasks`), and its auxiliary losses (`Step.terms`), which the gradient holds too. `weights` are those of
    each batch's labels, `total` is their sum over all ranks. The loss is multiplied by `scale` on its way to the
    gradient, and the gradient divided by it. `part` says what a batch adds to the loss, by default its targets'
    weighted cross-entropy."""
    part = part or language(job, total, scale)
    job.optim.zero_grad(set_to_none=True)
    loss, tasks = 0.0, dict[str, tuple[float, float]]()
    units = [auxiliary.units(job.model, *each, job.terms) for each in zip(batches, weights, strict=True)]
    counts = dict(zip(auxiliary.UNITS, sums(auxiliary.totals(units), job.world) if job.terms else (), strict=False))
    means = dict.fromkeys(job.terms, 0.0)
    for batch, weight, mine in zip(batches, weights, units, strict=True):
        torch.manual_seed(int(rng.generator("step", job.spec.seed, job.step, *batch["keys"]).integers(2**63)))
        recording = auxiliary.recording(job.spec.seed, job.step)
        with autocast(batch["input_ids"].device, job.spec.precision), recording as said:
            summed, counted = part(batch, weight)
        whole = summed / total
        loss += float(whole.detach())
        for name, value in auxiliary.summed(job.terms, said, mine).items():
            mean = value / max(counts[job.terms[name].per], 1e-30)
            whole = whole + job.terms[name].weight * mean
            means[name] += float(mean.detach())
        if whole.requires_grad:  # words alone tell nothing to what is trained of pictures only: that is a zero
            (whole * scale).backward()
        tasks = merged([tasks, counted])
    job.monitor.lap("compute")
    add_gradients(job.model.parameters(), job.world)
    if scale != 1:
        optim.scale_gradients(job.model.parameters(), 1 / scale)
    loss, *values = sums([loss, *means.values()], job.world)
    tasks = merged(gather(tasks, job.world))
    job.monitor.lap("sync")
    return loss, tasks, dict(zip(means, values, strict=True))
