"""What each target of a step weighs: by its class and the progress of the run, its sample, its task."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field

from mmdata.labels import IGNORE, KINDS, PROMPT
from mmdata.registry import nearest
from mmdata.spec import Model
from mmtrain.losses import Norm, normed
from mmtrain.rows import borders


class WeightPhase(Model):
    """What tokens weigh in a part of the run; everything is multiplied by what the stream's `token_weights` say."""

    until: float = Field(1.0, gt=0, le=1)
    """Share of the steps at which it ends."""
    prompt: float = Field(1.0, ge=0)
    """What is not part of an answer: instructions, and the template's tokens around them."""
    response: float = Field(1.0, ge=0)
    """Answers, the token that ends them among them."""
    special: float = Field(1.0, ge=0)
    """Besides: the template's own tokens, the end of an answer too,"""
    box: float = Field(1.0, ge=0)
    """coordinates,"""
    entity: float = Field(1.0, ge=0)
    """names of what lies there."""


def problem(phases: Sequence[WeightPhase], train_on: str) -> str | None:
    """What is wrong with a schedule for such a stream, or None."""
    for before, phase in itertools.pairwise(phases):
        if phase.until <= before.until:
            return f"token_weight_schedule: {phase.until} follows {before.until}; put phases in ascending order"
    if phases and phases[-1].until < 1:
        return f"token_weight_schedule: nothing is said of what comes after {phases[-1].until}; end it `until: 1`"
    if train_on != "all" and any(phase.prompt not in (0.0, 1.0) for phase in phases):
        return f"token_weight_schedule: prompts have labels only with data.train_on: all (it is {train_on})"
    return None


def factors(phases: Sequence[WeightPhase], progress: float) -> torch.Tensor:
    """What each class of token (`mmdata.labels.token_classes`) is multiplied by at `progress` (0 <= p < 1) of the run,
    float32 [2 * PROMPT].

    >>> late = factors([WeightPhase(until=0.5), WeightPhase(prompt=0.0, box=2.0)], 0.5)
    >>> late[[1, 3, 4, 10, 11]].tolist()  # an answer, its end and a box in it; an instruction, a token of the template
    [1.0, 1.0, 2.0, 0.0, 0.0]
    """
    now = next((phase for phase in phases if progress < phase.until), None)
    result = torch.ones(2 * PROMPT)
    if now is None:
        return result
    for at, kind in enumerate(KINDS, 1):
        own = {"special": now.special, "box": now.box, "entity": now.entity}.get(kind, 1.0)
        result[at], result[at + PROMPT] = own * now.response, own * now.prompt
    return result


def step_weights(
    batch: Mapping[str, Any],
    norm: Norm,
    *,
    phases: Sequence[WeightPhase] = (),
    progress: float = 0.0,
    tasks: Mapping[str, float] | None = None,
) -> torch.Tensor:
    """What each label of a batch weighs, float32 [T]: 0 where there is none.

    The stream's weight times that of its class now; made even by `norm` over its sample; times what the sample and its
    task weigh, which the norm must not take away again. It depends on nothing but the batch and the progress, so a
    batch that was made ahead, or by a run before, weighs what its step says.
    """
    labels, borders_ = batch["labels"].flatten(), borders(batch)
    weights = batch["loss_weights"].flatten()
    if phases:
        table = factors(phases, progress).to(weights.device)
        weights = weights * table[batch["token_classes"].flatten().long()]
    weights = normed(weights, labels, borders_, norm)
    if "sample_weights" in batch:
        each = batch["sample_weights"].to(weights.device)
        if tasks:
            each = each * torch.tensor([tasks.get(task, 1.0) for task in batch["tasks"]], device=each.device)
        weights = weights * torch.repeat_interleave(each, borders_.diff().to(each.device))
    return torch.where(labels == IGNORE, 0, weights)


def unmet(weights: Mapping[str, float], met: Collection[str], where: str) -> str | None:
    """What to say of tasks that are weighed where samples are of those `met` only.

    >>> unmet({"orc": 2.0, "vqa": 0.5}, ["ocr", "vqa"], "of the first epoch")
    "tasks  task_weights: no sample of the first epoch is of 'orc' (did you mean 'ocr'?)"
    """
    lost = sorted(weights.keys() - met)
    if not lost:
        return None
    told = [f"{task!r} ({nearest(task, sorted(met))})" if met else repr(task) for task in lost]
    return f"tasks  task_weights: no sample {where} is of {', '.join(told)}"


def by_task(batch: Mapping[str, Any], losses: torch.Tensor, weights: torch.Tensor) -> dict[str, tuple[float, float]]:
    """Of each task of a batch, the sum of weight * loss over its targets and the sum of their weights; `losses` and
    `weights` are float32 [T]."""
    if "tasks" not in batch:
        return {}
    lengths = borders(batch).diff().to(losses.device)
    segment = torch.repeat_interleave(torch.arange(len(lengths), device=losses.device), lengths)
    sums = torch.zeros(2, len(lengths), dtype=torch.float64, device=losses.device)
    sums.index_add_(1, segment, torch.stack([losses * weights, weights]).double())
    return merged([{task: (loss, weight)} for task, loss, weight in zip(batch["tasks"], *sums.tolist(), strict=True)])


def merged(parts: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Sums by task of several parts, tasks in the order of their names; those without a target are left out."""
    result: dict[str, tuple[float, float]] = {}
    for part in parts:
        for task, (loss, weight) in part.items():
            before = result.get(task, (0.0, 0.0))
            result[task] = before[0] + loss, before[1] + weight
    return {task: sums for task, sums in sorted(result.items()) if sums[1]}
