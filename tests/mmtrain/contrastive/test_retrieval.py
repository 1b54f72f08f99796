"""Recall at k and accuracy by sorting, and what chance reaches by drawing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmtrain.contrastive.retrieval import accuracy, class_vectors, recalls


def test_recalls_by_sorting() -> None:
    draw = torch.Generator().manual_seed(0)
    pictures = F.normalize(torch.randn(12, 4, generator=draw), dim=-1)
    texts = F.normalize(torch.randn(7, 4, generator=draw), dim=-1)
    together = torch.zeros(12, 7, dtype=torch.bool)
    together[torch.arange(12), torch.arange(12) % 7] = True
    together[3, 5] = True
    found = recalls(pictures, texts, together, [1, 3, 7])
    for name, rows, candidates, own in (("text", pictures, texts, together), ("image", texts, pictures, together.T)):
        for k in (1, 3, 7):
            hits = 0
            for row, mine in zip(rows, own, strict=True):
                nearest = sorted(range(len(candidates)), key=lambda at: -float(row @ candidates[at]))[:k]
                hits += any(bool(mine[at]) for at in nearest)
            assert found[f"{name}_r@{k}"] == pytest.approx(hits / len(rows)), (name, k)


def test_chance_is_what_a_random_order_reaches() -> None:
    draw = torch.Generator().manual_seed(1)
    together = torch.zeros(6, 10, dtype=torch.bool)
    together[:, 0] = together[:3, 1:4] = True
    told = recalls(torch.zeros(6, 2), torch.zeros(10, 2), together, [2])
    orders = torch.rand(4000, 10, generator=draw).argsort(-1)[:, :2]
    reached = torch.stack([row[orders].any(-1).float().mean() for row in together]).mean()
    assert told["chance_text_r@2"] == pytest.approx(float(reached), abs=0.02)


def test_what_tells_nothing_apart_finds_nothing() -> None:
    """All vectors alike: a tie is no find."""
    rows = torch.ones(5, 3) / 3**0.5
    found = recalls(rows, rows, torch.eye(5, dtype=torch.bool), [1, 4])
    assert found["text_r@1"] == found["image_r@4"] == 0.0
    assert found["text_median_rank"] == 5.0


def test_zero_shot_takes_the_mean_of_a_classs_texts() -> None:
    texts = F.normalize(torch.tensor([[1.0, 0.2], [1.0, -0.2], [0.1, 1.0], [-0.1, 1.0]]), dim=-1)
    classes = class_vectors(texts, 2)
    torch.testing.assert_close(classes, torch.eye(2))
    pictures = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.5]])
    assert accuracy(pictures, classes, torch.tensor([0, 1, 1]), [1, 5]) == {
        "top@1": pytest.approx(2 / 3),
        "chance_top@1": 0.5,
    }


def test_what_is_no_number_finds_nothing() -> None:
    """A model that has blown up is not a perfect one."""
    nan, none = torch.full((5, 4), float("nan")), torch.eye(5, dtype=torch.bool)
    found = recalls(nan, nan, none, [1]) | accuracy(nan, nan, torch.arange(5), [1])
    assert [found[name] for name in ("text_r@1", "image_r@1", "top@1")] == [0, 0, 0]
    assert found["text_median_rank"] == 5
    one = F.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    one[2] = float("nan")
    assert recalls(one, one, none, [1])["text_r@1"] == 0  # its text may be before any other one
