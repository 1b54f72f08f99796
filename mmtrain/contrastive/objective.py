"""The loss of a global batch, as a function of vectors: each rank computes the part of its own rows.

What ranks compute adds up to the loss that one process would have found, and so do the gradients of every vector. The
softmax sees all candidates at once: vectors are gathered. Decisions for each two need no more than two ranks' vectors
at a time: texts go round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch.utils.checkpoint import checkpoint

from mmdata.spec import Model
from mmdata.types import World
from mmtrain.contrastive import negatives as hard
from mmtrain.contrastive.exchange import around, gathered
from mmtrain.contrastive.labels import LabelSpec, same, sigmoid_targets, softmax_targets
from mmtrain.contrastive.losses import sigmoid_loss, softmax_loss
from mmtrain.contrastive.negatives import NegativesSpec

SCALES = {"softmax": 1 / 0.07, "sigmoid": 10.0}
"""What logits are multiplied by at first (CLIP §2.4; SigLIP §3.2)."""
BIAS = -10.0
"""What is added to them at first, of decisions for each two (SigLIP §3.2)."""
MOST = 100.0
"""What CLIP's scale is held to (§2.5)."""


class RegionsSpec(Model):
    """Cells of pictures compared with texts: the likeness of the two is that of the best cell."""

    weight: float = Field(0.5, gt=0)
    """Of this loss beside that of whole pictures."""
    cells: int = Field(2, ge=1)
    """Rows and columns that a picture is cut into."""


class WordsSpec(Model):
    """Patches compared with words, within each pair (SPARC: Bica et al. 2024, arXiv 2401.09865)."""

    weight: float = Field(0.5, gt=0)
    """Of this loss beside that of whole pictures."""


class LossSpec(Model):
    """How vectors are compared."""

    kind: Literal["softmax", "sigmoid"] = "softmax"
    """Which of all texts belongs to a picture, and which picture to a text (CLIP), or of each two whether they belong
    together (SigLIP)."""
    scale: float | None = Field(None, gt=0)
    """What cosines are multiplied by at first, 1 / temperature; it is learned. By default 1 / 0.07, or 10 of sigmoid;
    of a model with weights of its own, what it has."""
    max_scale: float | None = Field(None, ge=1)
    """What the scale is held to; by default 100 of softmax, and nothing of sigmoid."""
    labels: LabelSpec = LabelSpec()
    negatives: NegativesSpec | None = None
    """Null: all candidates count alike."""
    regions: RegionsSpec | None = None
    """Null: no regions are compared."""
    words: WordsSpec | None = None
    """Null: no words are compared."""
    chunk: int = Field(4096, ge=1)
    """Of sigmoid: candidates whose logits exist at once; they are made again for the gradient."""

    @model_validator(mode="after")
    def _rows_are_whole(self) -> Self:
        if self.kind == "sigmoid" and self.negatives is not None and self.negatives.hardest is not None:
            raise ValueError(
                "loss.negatives.hardest: the hardest of a row are known where all its logits are; set kind: softmax, "
                "or levels whose weights are 0"
            )
        return self

    @model_validator(mode="after")
    def _begins_below_its_limit(self) -> Self:
        if self.scale is not None and math.log(self.scale) > self.most:
            raise ValueError(f"loss.scale: {self.scale:g} is held to {math.exp(self.most):g} at once; raise max_scale")
        return self

    @property
    def most(self) -> float:
        """The logarithm of what the scale is held to."""
        limit = self.max_scale or (MOST if self.kind == "softmax" else math.inf)
        return math.log(limit) if math.isfinite(limit) else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of rows besides their vectors; no gradient goes there."""

    digests: torch.Tensor
    """Of texts, int64 [n]."""
    bags: torch.Tensor | None = None
    """Of texts, float32 [n, BAG]; where likeness is that of words."""
    pictures: torch.Tensor | None = None
    """What the momentum encoder makes of them, float32 [n, D], where there is one."""
    texts: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """Vectors of this rank's rows, which carry gradients, and what they are compared by."""

    pictures: torch.Tensor
    """[n, D]"""
    texts: torch.Tensor
    """[n, D]"""
    scale: torch.Tensor
    """The logarithm of what cosines are multiplied by, [1]."""
    bias: torch.Tensor
    """[1]"""
    regions: torch.Tensor | None = None
    """[n, R, D]"""


def losses(
    spec: LossSpec,
    mine: Whole,
    known: Known,
    *,
    each: Sequence[int],
    world: World,
    queue: Known | None = None,
    progress: float = 0.0,
) -> dict[str, torch.Tensor]:
    """This rank's part of the mean loss over all pairs, by name: `main`, and `region` where regions are compared, not
    yet weighted. `each` says how many rows each rank has; `queue` holds candidates of earlier steps, which are compared
    with whole pictures and texts. All ranks call it together."""
    if spec.kind == "softmax":
        return _softmax(spec, mine, known, each, world, queue, progress)
    return _sigmoid(spec, mine, known, each, world, queue, progress)


def likeness(pictures: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Cosines [n, m] of pictures [n, D] and texts [m, D]; of regions [n, R, D], that of the best one."""
    if pictures.ndim == 2:
        return pictures @ texts.T
    return (pictures @ texts.T).amax(1)


def _softmax(
    spec: LossSpec,
    mine: Whole,
    known: Known,
    each: Sequence[int],
    world: World,
    queue: Known | None,
    progress: float,
) -> dict[str, torch.Tensor]:
    total, first = sum(each), sum(each[: world.rank])
    width = mine.pictures.shape[-1]
    rows = [mine.pictures, mine.texts] if mine.regions is None else [mine.pictures, mine.texts, mine.regions.flatten(1)]
    every = gathered(torch.cat(rows, -1), each, world)
    pictures, texts, rest = every[:, :width], every[:, width : 2 * width], every[:, 2 * width :]
    others = _all(known, each, world)
    by_pictures = [("main", mine.pictures, pictures)]
    if mine.regions is not None:
        by_pictures.append(("region", mine.regions, rest.unflatten(1, (-1, width))))
    scale = mine.scale.exp()
    found = {}
    for name, own, all_of_them in by_pictures:
        # What is queued are vectors of whole pictures and texts.
        more = queue if name == "main" else None
        candidates = [texts, all_of_them]
        if more is not None and more.texts is not None and more.pictures is not None:
            candidates = [torch.cat([texts, more.texts]), torch.cat([all_of_them, more.pictures])]
        seen = likeness(own, candidates[0]) * scale, likeness(candidates[1], mine.texts).T * scale
        told = _joined(others, more)
        together = same(known.digests, told.digests, first, spec.labels)
        value = scale.new_zeros(())
        alike = None if spec.negatives is None else near(spec.negatives, mine.texts, known, candidates[0], told)
        for teacher, logits in zip(_teachers(spec, known, told, scale), seen, strict=True):
            weights = None
            if spec.negatives is not None and alike is not None:
                weights = hard.weights(spec.negatives, alike, logits, together, progress).log()
            value = value + softmax_loss(logits, softmax_targets(together, spec.labels, teacher), weights).sum()
        found[name] = value / (2 * max(total, 1))
    return found


def _sigmoid(
    spec: LossSpec,
    mine: Whole,
    known: Known,
    each: Sequence[int],
    world: World,
    queue: Known | None,
    progress: float,
) -> dict[str, torch.Tensor]:
    total, first = sum(each), sum(each[: world.rank])
    others = _all(known, each, world)
    scale = mine.scale.exp()
    heads = {"main": mine.pictures} | ({} if mine.regions is None else {"region": mine.regions})
    found = {name: scale.new_zeros(()) for name in heads}

    def block(rows: torch.Tensor, texts: torch.Tensor, told: Known, at: int, turned: bool) -> torch.Tensor:
        seen = likeness(rows, texts) * scale + mine.bias
        together = same(known.digests, told.digests, at, spec.labels)
        weights = None
        if spec.negatives is not None:
            alike = near(spec.negatives, mine.texts, known, texts if told.texts is None else told.texts, told)
            weights = hard.weights(spec.negatives, alike, seen, together, progress)
        teacher = _teachers(spec, known, told, scale)[turned]
        teacher = None if teacher is None else teacher + mine.bias.detach()
        return sigmoid_loss(seen, sigmoid_targets(together, spec.labels, teacher), weights).sum()

    for source, texts in around(mine.texts, each, world):
        start = sum(each[:source])
        for at in range(0, max(len(texts), 1), spec.chunk):
            part = texts[at : at + spec.chunk]
            told = _slice(others, start + at, start + at + len(part))
            for name, rows in heads.items():
                args = (rows, part, told, first - start - at, False)
                whole = len(texts) <= spec.chunk
                value = block(*args) if whole else checkpoint(block, *args, use_reentrant=False)
                found[name] = found[name] + value
    if queue is not None and queue.texts is not None and queue.pictures is not None and len(queue.digests):
        for rows, others_, turned in ((mine.pictures, queue.texts, False), (mine.texts, queue.pictures, True)):
            for at in range(0, len(others_), spec.chunk):
                told = _slice(queue, at, at + spec.chunk)
                args = (rows, others_[at : at + spec.chunk], told, -total - len(queue.digests), turned)
                found["main"] = found["main"] + checkpoint(block, *args, use_reentrant=False)
    return {name: value / max(total, 1) for name, value in found.items()}


def near(spec: NegativesSpec, texts: torch.Tensor, known: Known, candidates: torch.Tensor, told: Known) -> torch.Tensor:
    """Likenesses of texts [n, m], as the spec has them: those of `known` and those of `told`, whose vectors are `texts`
    and `candidates`."""
    if spec.likeness == "words":
        assert known.bags is not None
        assert told.bags is not None
        return known.bags @ told.bags.T
    own = known.texts if known.texts is not None else texts.detach()
    others = told.texts if told.texts is not None else candidates.detach()
    return own @ others.T


def _teachers(
    spec: LossSpec, known: Known, told: Known, scale: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The momentum encoder's logits [n, m] of pictures for texts, and of texts for pictures."""
    if not spec.labels.teacher or known.pictures is None or known.texts is None:
        return None, None
    assert told.pictures is not None
    assert told.texts is not None
    scale = scale.detach()
    return known.pictures @ told.texts.T * scale, known.texts @ told.pictures.T * scale


def _all(known: Known, each: Sequence[int], world: World) -> Known:
    """What is known of the rows of all ranks."""
    with torch.no_grad():
        return changed(known, lambda rows: gathered(rows, each, world))


def _slice(known: Known, start: int, stop: int) -> Known:
    return changed(known, lambda rows: rows[start:stop])


def changed(known: Known, change: Callable[[torch.Tensor], torch.Tensor]) -> Known:
    """What becomes of each of its tensors."""
    bags, pictures, texts = (
        None if rows is None else change(rows) for rows in (known.bags, known.pictures, known.texts)
    )
    return Known(digests=change(known.digests), bags=bags, pictures=pictures, texts=texts)


def _joined(first: Known, second: Known | None) -> Known:
    """The rows of both, of what both have."""
    if second is None:
        return first
    bags, pictures, texts = (
        torch.cat([a, b]) if a is not None and b is not None else None
        for a, b in ((first.bags, second.bags), (first.pictures, second.pictures), (first.texts, second.texts))
    )
    return Known(digests=torch.cat([first.digests, second.digests]), bags=bags, pictures=pictures, texts=texts)
