"""Losses of logits: softmax over a row's candidates, or a decision for each two; with hard, several or soft labels.

>>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
>>> round(float(symmetric(logits)), 4)
0.0181
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def softmax_loss(logits: torch.Tensor, targets: torch.Tensor, log_weights: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy of each row in nats: logits float32 [n, N], targets [n, N] whose rows sum to 1 -> [n].

    With `log_weights` [n, N], candidate j counts exp(w) times in the sum below the fraction (0: as it is; -inf: not at
    all, and what its target would have is shared by the others). (InfoNCE: van den Oord et al. 2018, arXiv 1807.03748;
    weights of negatives: Robinson et al. 2021, arXiv 2010.04592.)
    """
    weighed = logits
    if log_weights is not None:
        weighed = logits + log_weights
        # Nothing below the fraction would hold what is above it: rows would be drawn to what is left out.
        targets = torch.where(log_weights == -torch.inf, 0.0, targets)
        targets = targets / targets.sum(-1, keepdim=True)
    return torch.logsumexp(weighed, dim=-1) - (targets * logits).sum(-1)


def sigmoid_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The sum over each row of binary cross-entropies in nats: logits float32 [n, m], targets [n, m] in 0..1 -> [n].

    With `weights` [n, m], each candidate counts so many times. (Zhai et al. 2023, arXiv 2303.15343, algorithm 1, whose
    loss is the mean over rows.)
    """
    each = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    if weights is not None:
        each = each * weights
    return each.sum(-1)


def symmetric(logits: torch.Tensor) -> torch.Tensor:
    """CLIP's loss of logits [N, N] whose diagonal holds the pairs: the mean of the cross-entropies of rows and columns
    (Radford et al. 2021, arXiv 2103.00020, figure 3)."""
    own = torch.eye(len(logits), device=logits.device)
    return (softmax_loss(logits, own).mean() + softmax_loss(logits.T, own).mean()) / 2


def pairwise(logits: torch.Tensor) -> torch.Tensor:
    """SigLIP's loss of logits [N, N] whose diagonal holds the pairs."""
    return sigmoid_loss(logits, torch.eye(len(logits), device=logits.device)).mean()


def patch_word(patches: torch.Tensor, words: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """The loss of the words of one text among each other, given its picture: patches [P, D] and words [W, D] -> a
    scalar; 0 for a single word.

    Of each word, likenesses to patches are stretched to 0..1 and those below 1/P left out; the patches that are left,
    weighted so, are what the picture shows of the word, and belong to it rather than to other words. (SPARC: Bica et
    al. 2024, arXiv 2401.09865, §3.2.)
    """
    count, total = len(words), len(patches)
    if count < 2:
        return (words.sum() + patches.sum()) * 0
    likeness = words @ patches.T
    low, high = likeness.amin(-1, keepdim=True), likeness.amax(-1, keepdim=True)
    share = (likeness - low) / (high - low).clamp(min=1e-8)
    share = torch.where(share < 1 / total, 0.0, share)
    share = share / share.sum(-1, keepdim=True).clamp(min=1e-8)
    shown = F.normalize(share @ patches, dim=-1)
    return symmetric(shown @ F.normalize(words, dim=-1).T * scale)
