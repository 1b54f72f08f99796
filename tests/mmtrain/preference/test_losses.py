"""Losses of pairs against their formulas, written down once more from the papers, value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrain.preference.losses import Loss, pair_losses


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def formula(kind: Loss, chosen: float, rejected: float, beta: float, lengths: tuple[int, int], eps: float) -> float:
    match kind:
        case "dpo":  # Rafailov et al., equation 7
            return -math.log(sigmoid(beta * chosen - beta * rejected))
        case "ipo":  # Azar et al., equation 17, over means of tokens
            return (chosen / lengths[0] - rejected / lengths[1] - 1 / (2 * beta)) ** 2
        case "hinge":
            return max(0.0, 1 - beta * (chosen - rejected))
        case "robust":  # Chowdhury et al., equation 12
            p = sigmoid(beta * (chosen - rejected))
            return (-(1 - eps) * math.log(p) + eps * math.log(1 - p)) / (1 - 2 * eps)
        case "apo_zero":
            return 1 - sigmoid(beta * chosen) + sigmoid(beta * rejected)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["dpo", "ipo", "hinge", "robust", "apo_zero"]),
    ratios=st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=4),
    beta=st.sampled_from([0.01, 0.1, 0.5]),
    tokens=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    eps=st.sampled_from([0.0, 0.1, 0.4]),
)
def test_losses_are_their_formulas(
    kind: Loss, ratios: list[tuple[float, float]], beta: float, tokens: tuple[int, int], eps: float
) -> None:
    chosen, rejected = torch.tensor(ratios, dtype=torch.float64).T
    lengths = tuple(torch.full_like(chosen, each) for each in tokens)
    found = pair_losses(kind, chosen, rejected, beta=beta, lengths=(lengths[0], lengths[1]), label_smoothing=eps)
    expected = [formula(kind, *pair, beta, tokens, eps) for pair in ratios]
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_dpo_weighs_pairs_by_how_wrong_they_are() -> None:
    """The gradient with respect to the chosen log-probability is -beta * sigmoid(-margin) (Rafailov et al., 4)."""
    chosen = torch.tensor([-3.0, 0.0, 5.0], requires_grad=True)
    rejected = torch.tensor([2.0, 0.0, -1.0])
    tokens = torch.ones(3)
    (gradient,) = torch.autograd.grad(
        pair_losses("dpo", chosen, rejected, beta=0.3, lengths=(tokens, tokens)).sum(), chosen
    )
    torch.testing.assert_close(gradient, -0.3 * torch.sigmoid(-0.3 * (chosen - rejected)).detach())
