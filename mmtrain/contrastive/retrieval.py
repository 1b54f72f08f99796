"""Retrieval and zero-shot classification: how often what is sought stands among the first, and how often by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def recalls(pictures: torch.Tensor, texts: torch.Tensor, together: torch.Tensor, ks: Sequence[int]) -> dict[str, float]:
    """Recall at k both ways, of vectors [N, D] and [M, D] of length 1 and whether they belong together, bool [N, M].

    `text_r@k` is the share of pictures of which one of the k nearest texts is theirs, `image_r@k` that of texts (as on
    COCO and Flickr30k; with several of its own, one is enough); `chance_...` what a random order would reach.

    >>> rows = torch.eye(4)
    >>> found = recalls(rows, rows, torch.eye(4, dtype=torch.bool), [1])
    >>> found["text_r@1"], found["chance_image_r@1"]
    (1.0, 0.25)
    """
    seen = pictures @ texts.T
    found: dict[str, float] = {}
    for name, scores, own in (("text", seen, together), ("image", seen.T, together.T)):
        place = _places(scores, own)
        for k in ks:
            found[f"{name}_r@{k}"] = float((place < k).double().mean())
            found[f"chance_{name}_r@{k}"] = _chance(own, k)
        found[f"{name}_median_rank"] = float(place.double().quantile(0.5)) + 1
    return found


def _places(scores: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """How many candidates stand before the first of a row's own, int64 [n]; an equal one stands before it, so that a
    model that tells nothing apart finds nothing, and so does what is no number: a model that has blown up finds
    nothing either."""
    best = torch.where(own, scores, -torch.inf).amax(-1, keepdim=True)
    return (~(scores < best) & ~own).sum(-1)


def _chance(own: torch.Tensor, k: int) -> float:
    """The mean over rows of 1 - C(n - m, k) / C(n, k), of m own among n candidates."""
    total = own.shape[-1]
    k = min(k, total)
    return sum(1 - math.comb(total - mine, k) / math.comb(total, k) for mine in own.sum(-1).tolist()) / len(own)


def class_vectors(texts: torch.Tensor, templates: int) -> torch.Tensor:
    """A vector of each class, of those [classes * templates, D] of its texts: their mean, made of length 1 (Radford et
    al. 2021, §3.1.4)."""
    return torch.nn.functional.normalize(texts.unflatten(0, (-1, templates)).mean(1), dim=-1)


def accuracy(
    pictures: torch.Tensor, classes: torch.Tensor, labels: torch.Tensor, ks: Sequence[int]
) -> dict[str, float]:
    """`top@k`: the share of pictures [N, D] whose class int64 [N] is among the k nearest of [C, D]; and by chance."""
    scores = pictures @ classes.T
    own = torch.nn.functional.one_hot(labels, len(classes)).bool()
    place = _places(scores, own)
    found = {f"top@{k}": float((place < k).double().mean()) for k in ks if k < len(classes)}
    return found | {f"chance_top@{k}": k / len(classes) for k in ks if k < len(classes)}
