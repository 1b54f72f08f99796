"""Hard negatives: candidates by how near their meaning is, and what each level weighs as the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from mmdata.spec import Model


class NegativesSpec(Model):
    """What candidates that do not belong to a row weigh in its loss, by the likeness of their texts."""

    likeness: Literal["words", "vectors"] = "words"
    """The cosine of two texts' sets of words, or of their vectors as they are now (with a momentum encoder, its)."""
    levels: tuple[float, ...] = (0.3, 0.6)
    """Cosines between levels, ascending: below the first are the easy ones, above the last the hardest."""
    begin: tuple[float, ...] = (1.0, 1.0, 1.0)
    """What each level weighs at first, the easy ones first; 0 leaves them out,"""
    end: tuple[float, ...] = (1.0, 2.0, 4.0)
    """and in the end."""
    start: float = Field(0.0, ge=0, le=1)
    """Share of the run after which weights begin to move,"""
    stop: float = Field(0.5, ge=0, le=1)
    """and at which they are those of the end."""
    false_above: float | None = Field(None, gt=0, le=1)
    """Candidates of a likeness above are taken for true and left out."""
    hardest: int | None = Field(None, ge=1)
    """Only so many candidates of a row count besides its targets: those of the highest logits."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        count = len(self.levels) + 1
        if list(self.levels) != sorted(set(self.levels)):
            raise ValueError("negatives.levels: cosines between levels ascend")
        if len(self.begin) != count or len(self.end) != count:
            raise ValueError(f"negatives: {len(self.levels)} levels part {count} classes; begin and end need as many")
        if min(*self.begin, *self.end) < 0 or not any(self.begin) or not any(self.end):
            raise ValueError("negatives: weights of levels are 0 or more, and not all 0")
        if self.start > self.stop:
            raise ValueError("negatives: start comes before stop")
        return self


def level_weights(spec: NegativesSpec, progress: float) -> tuple[float, ...]:
    """What each level weighs at `progress` (0 to 1) of the run.

    >>> level_weights(NegativesSpec(start=0.0, stop=0.5), 0.25)
    (1.0, 1.5, 2.5)
    """
    if spec.stop == spec.start:
        share = float(progress >= spec.stop)
    else:
        share = min(max((progress - spec.start) / (spec.stop - spec.start), 0.0), 1.0)
    return tuple(a + share * (b - a) for a, b in zip(spec.begin, spec.end, strict=True))


def levels(spec: NegativesSpec, likeness: torch.Tensor) -> torch.Tensor:
    """The level of each candidate, int64 [n, m], of likenesses [n, m].

    >>> levels(NegativesSpec(), torch.tensor([[0.1, 0.5, 0.9]])).tolist()
    [[0, 1, 2]]
    """
    return torch.bucketize(likeness.contiguous(), likeness.new_tensor(spec.levels), right=True)


def weights(
    spec: NegativesSpec, likeness: torch.Tensor, logits: torch.Tensor, together: torch.Tensor, progress: float
) -> torch.Tensor:
    """What each candidate weighs, float32 [n, m]: 1 where it belongs to the row, else by its level, and 0 where it is
    left out."""
    each: Sequence[float] = level_weights(spec, progress)
    found = likeness.new_tensor(each)[levels(spec, likeness)]
    if spec.false_above is not None:
        found = torch.where(likeness > spec.false_above, 0.0, found)
    if spec.hardest is not None and spec.hardest < found.shape[-1]:
        usable = torch.where(together | (found == 0), -torch.inf, logits.detach())
        least = usable.topk(spec.hardest, dim=-1).values[:, -1:]
        found = torch.where(usable >= least, found, 0.0)
    return torch.where(together, 1.0, found)
