"""Losses of logits against transformers', open_clip's where it is installed, and loops over numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mmtrain.contrastive.losses import pairwise, patch_word, sigmoid_loss, softmax_loss, symmetric


def vectors(count: int, width: int = 8, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    made = torch.randn(2, count, width, generator=draw)
    pictures, texts = F.normalize(made, dim=-1)
    return pictures, texts


@pytest.mark.parametrize("count", [1, 2, 17])
def test_symmetric_is_clips(count: int) -> None:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    pictures, texts = vectors(count)
    logits = pictures @ texts.T / 0.07
    torch.testing.assert_close(symmetric(logits), image_text_contrastive_loss(logits.T), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 17])
def test_pairwise_is_siglips(count: int) -> None:
    """Written out as transformers has it in `SiglipModel.forward`."""
    pictures, texts = vectors(count)
    logits = pictures @ texts.T * 10 - 10
    signs = -torch.ones_like(logits) + 2 * torch.eye(count)
    theirs = -F.logsigmoid(signs * logits.T).sum(-1).mean()
    torch.testing.assert_close(pairwise(logits), theirs, rtol=1e-6, atol=1e-6)


def test_both_are_open_clips() -> None:
    losses = pytest.importorskip("open_clip.loss", reason="pip install open-clip-torch compares with its losses")
    pictures, texts = vectors(17)
    scale, bias = torch.tensor(1 / 0.07), torch.tensor(-10.0)
    theirs = losses.ClipLoss()(pictures, texts, scale)
    torch.testing.assert_close(symmetric(pictures @ texts.T * scale), theirs, rtol=1e-6, atol=1e-6)
    theirs = losses.SigLipLoss()(pictures, texts, scale, bias)
    torch.testing.assert_close(pairwise(pictures @ texts.T * scale + bias), theirs, rtol=1e-6, atol=1e-6)


def test_soft_targets_are_cross_entropy() -> None:
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 9, generator=draw)
    targets = torch.rand(5, 9, generator=draw).softmax(-1)
    theirs = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(softmax_loss(logits, targets), theirs, rtol=1e-6, atol=1e-6)


def test_a_negative_of_weight_two_is_there_twice() -> None:
    draw = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 4, generator=draw)
    targets = F.one_hot(torch.tensor([0, 0, 0]), 4).float()
    weights = torch.tensor([1.0, 2.0, 1.0, 0.0]).expand(3, 4)
    twice = torch.cat([logits[:, :3], logits[:, 1:2]], -1)  # and the last is not there at all
    theirs = F.cross_entropy(twice, torch.zeros(3, dtype=torch.long), reduction="none")
    torch.testing.assert_close(softmax_loss(logits, targets, weights.log()), theirs)


def test_weighted_decisions_by_a_loop() -> None:
    draw = torch.Generator().manual_seed(3)
    logits, targets = torch.randn(3, 4, generator=draw), torch.rand(3, 4, generator=draw)
    weights = torch.rand(3, 4, generator=draw)
    for row in range(3):
        total = 0.0
        for column in range(4):
            x, z = float(logits[row, column]), float(targets[row, column])
            p = 1 / (1 + math.exp(-x))
            total -= float(weights[row, column]) * (z * math.log(p) + (1 - z) * math.log(1 - p))
        assert float(sigmoid_loss(logits, targets, weights)[row]) == pytest.approx(total, rel=1e-5)


def test_patches_of_a_word_by_a_loop() -> None:
    """SPARC's algorithm 1, number by number."""
    draw = torch.Generator().manual_seed(4)
    patches, words = torch.randn(6, 5, generator=draw), torch.randn(3, 5, generator=draw)
    shown = []
    for word in words:
        near = [float(word @ patch) for patch in patches]
        share = [(value - min(near)) / (max(near) - min(near)) for value in near]
        share = [value if value >= 1 / 6 else 0.0 for value in share]
        whole = sum(value / sum(share) * patch for value, patch in zip(share, patches, strict=True))
        shown.append(F.normalize(torch.as_tensor(whole), dim=0))
    logits = torch.stack(shown) @ F.normalize(words, dim=-1).T * 7.0
    own = torch.arange(3)
    theirs = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(patch_word(patches, words, 7.0), theirs)
    assert float(patch_word(patches, words[:1], 7.0)) == 0.0


def test_what_is_left_out_draws_nothing() -> None:
    """Smoothed labels, and a candidate that does not count: the loss is that of the others alone."""
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 5, generator=draw, requires_grad=True)
    targets = torch.tensor([[0.8, 0.05, 0.05, 0.05, 0.05], [0.0, 0.5, 0.2, 0.2, 0.1]])
    weights = torch.tensor([[0.0, -torch.inf, 0.0, 0.0, -torch.inf], [0.0, 0.0, 0.0, 0.0, 0.0]])
    found = softmax_loss(logits, targets, weights)
    kept = [0, 2, 3]
    rest = targets[0, kept] / targets[0, kept].sum()
    expected = F.cross_entropy(logits[0, kept][None], rest[None])
    assert float(found[0]) == pytest.approx(float(expected), abs=1e-6)
    assert float(found[1]) == pytest.approx(float(F.cross_entropy(logits[1:], targets[1:])), abs=1e-6)
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, [1, 4]].tolist() == [0, 0]
    assert float(logits.grad.sum(-1).abs().max()) < 1e-6
