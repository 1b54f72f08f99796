"""What belongs together, and how much: pairs, equal texts, smoothed labels, and what a teacher says."""

from __future__ import annotations

import torch
from pydantic import Field

from mmdata.spec import Model


class LabelSpec(Model):
    """Labels other than that a picture has its own text and no other."""

    same_text: bool = False
    """Whether pictures of the same text are all its pictures: as many targets, each of an equal share."""
    smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of a label that is spread evenly over all candidates (softmax), or pulled to one half (sigmoid)."""
    teacher: float = Field(0.0, ge=0, lt=1)
    """Share of a label that is what the momentum encoder says (ALBEF: Li et al. 2021, arXiv 2107.07651, §3.2, takes
    0.4); needs `momentum`."""


def same(own: torch.Tensor, others: torch.Tensor, first: int, spec: LabelSpec) -> torch.Tensor:
    """Whether row i and candidate j belong together: digests of texts int64 [n] and [m] -> bool [n, m]. Row i is
    candidate `first` + i, where that is one."""
    rows = torch.arange(len(own), device=own.device)[:, None] + first
    found = rows == torch.arange(len(others), device=own.device)
    return found | (own[:, None] == others) if spec.same_text else found


def softmax_targets(together: torch.Tensor, spec: LabelSpec, teacher: torch.Tensor | None = None) -> torch.Tensor:
    """Rows that sum to 1, float32 [n, N], of whether they belong together; `teacher` are its logits.

    >>> softmax_targets(torch.tensor([[True, True, False]]), LabelSpec(smoothing=0.3)).tolist()
    [[0.44999998807907104, 0.44999998807907104, 0.10000000149011612]]
    """
    found = together.float()
    found = found / found.sum(-1, keepdim=True)
    if spec.smoothing:
        found = (1 - spec.smoothing) * found + spec.smoothing / found.shape[-1]
    if spec.teacher and teacher is not None:
        found = (1 - spec.teacher) * found + spec.teacher * teacher.softmax(-1)
    return found


def sigmoid_targets(together: torch.Tensor, spec: LabelSpec, teacher: torch.Tensor | None = None) -> torch.Tensor:
    """Of each two, in 0..1, float32 [n, m].

    >>> sigmoid_targets(torch.tensor([[True, False]]), LabelSpec(smoothing=0.2)).mul(100).round().tolist()
    [[90.0, 10.0]]
    """
    found = together.float()
    if spec.smoothing:
        found = (1 - spec.smoothing) * found + spec.smoothing / 2
    if spec.teacher and teacher is not None:
        found = (1 - spec.teacher) * found + spec.teacher * teacher.sigmoid()
    return found
