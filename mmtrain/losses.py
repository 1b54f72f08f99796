"""The loss of language modelling: weighted cross-entropy from hidden states, and what a target weighs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmdata.labels import IGNORE

Norm = Literal["token", "sample", "sqrt"]
CHUNK = 1024
"""Targets whose logits exist at once: 1024 x 152,000 float32 values (a large vocabulary) are 0.6 GB."""


class Groups(NamedTuple):
    """Which of `size` groups each label belongs to: `of` int64 [T], 0 <= group < size."""

    of: torch.Tensor
    size: int


def cross_entropy_sum(
    hidden: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    chunk: int = CHUNK,
) -> torch.Tensor:
    """The first of `weighted_cross_entropy`."""
    return weighted_cross_entropy(hidden, head, labels, weights, chunk=chunk)[0]


def weighted_cross_entropy(
    hidden: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    groups: Groups | None = None,
    chunk: int = CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over targets of weight * cross-entropy in nats, a float32 scalar; and the cross-entropy of each target at its
    place in `labels`, float32 [T], without a gradient.

    `hidden` [T, D] predict the token that follows, `labels` int64 [T] are those of the same tokens (un-shifted), -100
    where nothing is to be learned; `weights` float32 [T] belong to labels. Only hidden states that predict a target of
    some weight meet `head` ([n, D] -> [n, V]), `chunk` at a time, and their logits are made again for the gradient:
    neither T x V nor targets x V values ever exist. Divide by the weights of the whole step: a mean per batch would
    favour short ones. Without targets the sum is 0 and so are all gradients. With `groups` there is a sum for each of
    them, float32 [groups].
    """
    at = torch.nonzero((labels[1:] != IGNORE) & (weights[1:] != 0))[:, 0]
    predicting, wanted, weight = hidden[at], labels[1:][at], weights[1:][at]
    total = hidden.new_zeros(() if groups is None else groups.size, dtype=torch.float32)
    group = None if groups is None else groups.of[1:][at]
    each = torch.zeros(len(labels), dtype=torch.float32, device=labels.device)
    if not len(at):  # the head takes part all the same: some backends wait for its gradient
        return total + (head(hidden[:1]).float() * 0).sum(), each
    for start in range(0, len(at), chunk):
        piece = slice(start, start + chunk)
        args = (predicting[piece], head, wanted[piece], weight[piece])
        summed, found = _chunk(*args) if len(at) <= chunk else checkpoint(_chunk, *args, use_reentrant=False)
        total = total + (
            summed.sum() if group is None else total.new_zeros(len(total)).index_add(0, group[piece], summed)
        )
        each[at[piece] + 1] = found
    return total, each


def _chunk(
    hidden: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor], labels: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    each = F.cross_entropy(head(hidden).float(), labels, reduction="none")
    return each * weights, each.detach()


def normed(weights: torch.Tensor, labels: torch.Tensor, cu_seqlens: torch.Tensor, norm: Norm) -> torch.Tensor:
    """What each target weighs, float32 [T], when every token, or every sample, or something in between counts alike.

    `token` leaves `weights` as they are: long answers count more. `sample` divides by the sum of the weights of the
    sample (segment), so that each counts once; `sqrt` by the root of it (as InternVL 2.5 does). The loss is always
    sum(w * l) / sum(w) over the global step.

    >>> w, y = torch.ones(4), torch.tensor([-100, 5, 6, 7])
    >>> normed(w, y, torch.tensor([0, 4]), "sample")[1:]
    tensor([0.3333, 0.3333, 0.3333])
    """
    if norm == "token":
        return weights
    lengths = cu_seqlens.diff().to(weights.device)
    segment = torch.repeat_interleave(torch.arange(len(lengths), device=weights.device), lengths)
    active = weights * (labels != IGNORE)
    sums = torch.zeros(len(lengths), dtype=weights.dtype, device=weights.device).index_add_(0, segment, active)
    share = sums if norm == "sample" else sums.sqrt()
    return torch.where(share > 0, 1 / share, 0)[segment] * weights
