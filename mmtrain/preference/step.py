"""One step on pairs of answers: their log-probabilities in packed rows, their losses, their rewards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmdata.labels import IGNORE
from mmdata.stream.loader import Batch
from mmdata.templates import ANSWERS
from mmtrain import optim
from mmtrain.distributed import sums
from mmtrain.job import Job
from mmtrain.losses import Groups
from mmtrain.objective import losses
from mmtrain.precision import LossScale
from mmtrain.preference.losses import pair_losses
from mmtrain.preference.reference import Reference
from mmtrain.preference.spec import PreferenceSpec
from mmtrain.rows import borders
from mmtrain.step import Step, backward, finish
from mmtrain.weighting import by_task

MEASURES = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)
"""What the log has of a step, means over its pairs: beta * log(model / reference) of the answers, their difference, the
share of pairs in which it is positive, and the model's log-probabilities (the names are TRL's)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The pairs of a batch. Segments are counted over it; those of a pair follow each other."""

    chosen: torch.Tensor
    """int64 [pairs], the segment of the chosen answer; that of the rejected one is the next."""
    places: list[tuple[int, int]]
    """Of each pair, its dataset and position."""
    weights: torch.Tensor
    """float32 [T], 1 for every token of an answer, 0 elsewhere"""
    groups: Groups
    """The segment of each label."""
    lengths: torch.Tensor
    """float32 [segments], tokens of answers"""


def pairs_of(batch: Batch) -> Pairs:
    """The pairs of a batch, packed or padded. What is none (dummies, samples that could not be read, with one answer)
    weighs nothing."""
    labels, device = batch["labels"].flatten(), batch["input_ids"].device
    lengths = borders(batch).diff().long().to(device)
    segments = len(lengths)
    answers = batch.get("answers", [""] * segments)
    segment = torch.repeat_interleave(torch.arange(segments, device=device), lengths)
    of_pair = torch.tensor([bool(answer) for answer in answers], device=device)[segment]
    counted = of_pair & (labels != IGNORE) & (batch["loss_weights"].flatten() != 0)
    weights = counted.float()
    chosen = [at for at, answer in enumerate(answers) if answer == ANSWERS[0]]
    return Pairs(
        chosen=torch.tensor(chosen, dtype=torch.long, device=device),
        places=[tuple(batch["places"][at]) for at in chosen],
        weights=weights,
        groups=Groups(segment, segments),
        lengths=weights.new_zeros(segments).index_add(0, segment, weights),
    )


def log_probabilities(model: Any, batch: Batch, pairs: Pairs, strategy: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of log-probabilities of the answers' tokens in each segment, float32 [segments]; and the cross-entropy of
    each token, as `mmtrain.objective.losses` has it."""
    summed, each = losses(model, batch, pairs.weights, strategy, pairs.groups)
    return -summed, each


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What comes of the pairs of a batch."""

    losses: torch.Tensor
    """float32 [pairs]"""
    summed: torch.Tensor
    """Their sum, through which gradients go also where there is no pair."""
    tokens: torch.Tensor
    """Cross-entropy of each token, float32 [T], without a gradient."""
    measures: dict[str, float]
    """Sums over pairs, by the names of MEASURES."""


def compare(
    model: Any, batch: Batch, pairs: Pairs, strategy: Any, spec: PreferenceSpec, reference: Reference
) -> Compared:
    """The losses of a batch's pairs under the model and the reference."""
    logps, each = log_probabilities(model, batch, pairs, strategy)
    asked = reference.of(pairs.places, logps.device)
    chosen, rejected = logps[pairs.chosen], logps[pairs.chosen + 1]
    better, worse = chosen - asked[:, 0], rejected - asked[:, 1]
    lengths = pairs.lengths[pairs.chosen], pairs.lengths[pairs.chosen + 1]
    lost = pair_losses(spec.loss, better, worse, beta=spec.beta, lengths=lengths, label_smoothing=spec.label_smoothing)
    if spec.nll:
        lost = lost - spec.nll * chosen / lengths[0].clamp(min=1)
    return Compared(
        losses=lost,
        summed=lost.sum() + 0 * logps.sum(),
        tokens=each,
        measures=_measured(better.detach(), worse.detach(), chosen.detach(), rejected.detach(), spec.beta),
    )


def take(job: Job, batches: list[Batch], *, reference: Reference) -> Step:
    """Take step `job.step` on the pairs of this rank's batches; the caller counts it. The loss is the mean over the
    pairs of all ranks. Log lines have MEASURES; `loss/TASK` is the cross-entropy of the chosen answers. Raises RunError
    as `mmtrain.step.train_step` does."""
    spec, scale = job.spec.preference, job.parts.get("loss_scale")
    assert spec is not None
    found = [pairs_of(batch) for batch in batches]
    (total,) = sums([float(sum(len(pairs.chosen) for pairs in found))], job.world)
    job.monitor.start()
    if not total:
        job.gate.empty += 1
        return Step(loss=0.0, grad_norm=0.0, weight=0.0, moved=False)
    measures: Counter[str] = Counter()
    known = {id(batch): pairs for batch, pairs in zip(batches, found, strict=True)}

    def part(batch: Batch, weight: torch.Tensor) -> tuple[torch.Tensor, Mapping[str, tuple[float, float]]]:
        pairs = known[id(batch)]
        compared = compare(job.model, batch, pairs, job.strategy, spec, reference)
        measures.update(compared.measures)
        only = torch.where(_answered(batch, pairs), weight, 0)
        return compared.summed, by_task(batch, compared.tokens, only)

    weights = [pairs.weights for pairs in found]
    factor = scale.scale if isinstance(scale, LossScale) else 1.0
    loss, tasks, terms = backward(job, batches, weights, total, factor, part=part)
    values = dict(zip(MEASURES, sums([measures[name] for name in MEASURES], job.world), strict=True))
    norms = optim.gradient_norms(job.optim)
    result = Step(
        loss=loss,
        grad_norm=optim.total(norms),
        weight=total,
        norms=norms,
        tasks=tasks,
        terms=terms,
        values={"pairs": int(total), **{name: value / total for name, value in values.items()}},
    )
    return finish(job, batches, result, loss + sum(job.terms[name].weight * value for name, value in terms.items()))


def _measured(
    better: torch.Tensor, worse: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor, beta: float
) -> dict[str, float]:
    """Sums over pairs, in the order of MEASURES."""
    each: Sequence[torch.Tensor] = (
        beta * better,
        beta * worse,
        beta * (better - worse),
        (better > worse).float(),
        chosen,
        rejected,
    )
    return {name: float(values.double().sum()) for name, values in zip(MEASURES, each, strict=True)}


def _answered(batch: Batch, pairs: Pairs) -> torch.Tensor:
    """Which labels belong to chosen answers: bool [T]."""
    mine = torch.zeros(pairs.groups.size, dtype=torch.bool, device=pairs.weights.device)
    mine[pairs.chosen] = True
    return mine[pairs.groups.of]
