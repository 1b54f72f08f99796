"""The chunked loss against torch's own over full logits, and norms against a loop (training.md, 12, 14, 36, 37)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmtrain.losses import Norm, cross_entropy_sum, normed

T, D, V = 23, 6, 11


def case(seed: int) -> tuple[torch.Tensor, torch.nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    hidden = torch.randn(T, D, requires_grad=True)
    labels = torch.where(torch.rand(T) < 0.6, torch.randint(0, V, (T,)), -100)
    return hidden, torch.nn.Linear(D, V), labels, torch.rand(T)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), chunk=st.sampled_from([1, 3, 7, 1024]))
def test_chunks_are_the_whole(seed: int, chunk: int) -> None:
    hidden, head, labels, weights = case(seed)
    found = cross_entropy_sum(hidden, head, labels, weights, chunk=chunk)
    found.backward()
    gradients = [hidden.grad.clone(), head.weight.grad.clone(), head.bias.grad.clone()]  # type: ignore[union-attr]
    hidden.grad = head.weight.grad = head.bias.grad = None
    logits = head(hidden)
    each = F.cross_entropy(logits[:-1], labels[1:], reduction="none", ignore_index=-100)
    expected = (each * weights[1:] * (labels[1:] != -100)).sum()
    expected.backward()
    assert float(found) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
    for one, other in zip(gradients, (hidden.grad, head.weight.grad, head.bias.grad), strict=True):
        assert (one - other).abs().max() < 1e-5  # type: ignore[operator]


def test_logits_never_exist_as_a_whole() -> None:
    hidden, head, labels, weights = case(1)
    sizes: list[int] = []

    def watched(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return head(x)

    cross_entropy_sum(hidden, watched, labels, weights, chunk=4).backward()
    targets = int((labels[1:] != -100).sum())
    assert max(sizes) == 4
    assert sum(sizes) == 2 * targets  # once, and once again for the gradient


def test_no_targets_cost_nothing_and_reach_every_weight() -> None:
    hidden, head, labels, weights = case(2)
    total = cross_entropy_sum(hidden, head, torch.full_like(labels, -100), weights)
    total.backward()
    assert float(total) == 0
    assert head.weight.grad is not None
    assert float(head.weight.grad.abs().max()) == 0


@pytest.mark.parametrize("norm", ["token", "sample", "sqrt"])
def test_norms_are_their_sentence(norm: Norm) -> None:
    torch.manual_seed(3)
    lengths = [4, 9, 1, 6]
    cu = torch.tensor([0, *lengths]).cumsum(0)
    labels = torch.where(torch.rand(20) < 0.7, 1, -100)
    labels[13] = -100  # a sample without targets
    weights, losses = torch.rand(20), torch.rand(20)
    found = normed(weights, labels, cu, norm)
    active = labels != -100
    top = bottom = 0.0
    for start, stop in zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True):
        mine = [t for t in range(start, stop) if active[t]]
        if not mine:
            continue
        total = sum(float(weights[t]) for t in mine)
        share = {"token": 1.0, "sample": total, "sqrt": total**0.5}[norm]
        top += sum(float(weights[t] * losses[t]) for t in mine) / share
        bottom += total / share
    assert float((found * losses * active).sum() / (found * active).sum()) == pytest.approx(top / bottom, rel=1e-5)
    scaled = normed(weights * 3, labels, cu, norm)
    assert float((scaled * losses * active).sum() / (scaled * active).sum()) == pytest.approx(top / bottom, rel=1e-5)
    assert torch.isfinite(found).all()
