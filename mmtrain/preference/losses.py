"""Losses of pairs of answers, from log-probabilities under the model and under the reference."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

Loss = Literal["dpo", "ipo", "hinge", "robust", "apo_zero"]


def pair_losses(
    kind: Loss,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    *,
    beta: float,
    lengths: tuple[torch.Tensor, torch.Tensor],
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The loss of each pair, float32 [pairs]. `chosen` and `rejected` [pairs] are log(model / reference) of answers,
    sums over their tokens; `lengths` are how many those are.

    >>> ratio, tokens = torch.tensor([1.0]), torch.tensor([4.0])
    >>> losses = {}
    >>> for kind in ("dpo", "ipo", "hinge"):
    ...     losses[kind] = round(float(pair_losses(kind, ratio, -ratio, beta=0.5, lengths=(tokens, tokens))), 4)
    >>> losses  # log(1 + exp(-1)), (2 / 4 - 1) ** 2 and max(0, 1 - 1)
    {'dpo': 0.3133, 'ipo': 0.25, 'hinge': 0.0}
    """
    margin = beta * (chosen - rejected)
    match kind:
        case "dpo":
            return -F.logsigmoid(margin)
        case "ipo":
            mean = chosen / lengths[0].clamp(min=1) - rejected / lengths[1].clamp(min=1)
            return (mean - 1 / (2 * beta)) ** 2
        case "hinge":
            return torch.relu(1 - margin)
        case "robust":
            right, wrong = -F.logsigmoid(margin), -F.logsigmoid(-margin)
            return ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)
        case "apo_zero":
            return 1 - torch.sigmoid(beta * chosen) + torch.sigmoid(beta * rejected)
