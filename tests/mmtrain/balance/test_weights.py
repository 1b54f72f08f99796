"""Weights of tasks against their formulas and autograd; a step's loss is the balanced sum, however packs are dealt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from mmdata.collate import PackedCollator, PaddedCollator
from mmdata.errors import RunError
from mmdata.types import World
from mmtrain.balance import BalanceSpec, Fixed, InverseLoss, Uncertainty
from mmtrain.balance.spec import FixedSpec, InverseLossSpec, UncertaintySpec
from mmtrain.balance.weights import Balance, balanced, task_groups
from mmtrain.losses import weighted_cross_entropy
from mmtrain.weighting import by_task, merged, step_weights
from tests.mmtrain.test_weighting import pack

TASKS = ("asr", "ocr", "vqa")
LOSSES = {"asr": 3.2, "ocr": 1.8, "vqa": 2.5}


def optimizer(*, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=lr)


def batches() -> list[dict[str, Any]]:
    return [PackedCollator()(pack(1, [5, 7, 3])), PaddedCollator()(pack(2, [6, 2, 9]))]


@pytest.mark.parametrize("several", [True, False])
def test_a_step_is_the_weighted_sum_of_the_tasks_means(several: bool) -> None:
    """In any batches, packed and padded: sum(weight * loss) / sum of weights = sum over tasks of weight * mean."""
    given = batches() if several else [PackedCollator()([pack(1, [5, 7, 3]), pack(2, [6, 2, 9])])]
    weights = [step_weights(batch, "token") for batch in given]
    total = float(sum(each.sum() for each in weights))
    now = {"asr": 0.2, "ocr": 3.0, "vqa": 0.0}
    found, told = balanced(Fixed(FixedSpec(weights=now)), given, weights, World())
    assert told == now
    losses = [batch["labels"].flatten() % 7 + 0.5 for batch in given]
    sums = merged([by_task(batch, *each) for batch, *each in zip(given, losses, weights, strict=True)])
    assert set(sums) == set(TASKS)
    expected = sum(now[task] * loss / weight for task, (loss, weight) in sums.items())
    whole = sum(float((weight * loss).sum()) for weight, loss in zip(found, losses, strict=True))
    assert whole / total == pytest.approx(expected, rel=1e-5)


def test_a_task_that_nobody_named_stops_the_run() -> None:
    given = batches()
    weights = [step_weights(batch, "token") for batch in given]
    with pytest.raises(RunError, match=r"none of asr, ocr: vqa; name it in balance\.tasks"):
        balanced(InverseLoss(InverseLossSpec(tasks=("asr", "ocr"))), given, weights, World())


def test_inverse_losses_are_the_worked_example_and_come_back() -> None:
    """Losses 2.5, 3.2 and 1.8 weigh 0.3154, 0.2464 and 0.4381; before all are known, tasks are alike."""
    spec = InverseLossSpec(tasks=TASKS, smoothing=0.5)
    balance = InverseLoss(spec)
    balance.learn({"asr": 3.2, "ocr": 1.0}, World())
    assert set(balance.weights().values()) == {1 / 3}
    balance.learn({"ocr": 2.6, "vqa": 2.5}, World())  # ocr: (1.0 + 2.6) / 2
    assert {task: round(weight, 4) for task, weight in balance.weights().items()} == {
        "asr": 0.2464,
        "ocr": 0.4381,
        "vqa": 0.3154,
    }
    other = InverseLoss(spec)
    other.load_state_dict(balance.state_dict())
    assert other.weights() == balance.weights()


def test_uncertainty_has_the_gradient_of_kendalls_loss_and_comes_to_rest() -> None:
    """Against autograd of sum(exp(-s) * loss + s / 2) over the tasks that a step has; others stay where they are. At
    rest a weight is 1 / (2 * loss)."""
    spec = UncertaintySpec(tasks=TASKS, initial={"ocr": 0.4, "vqa": -0.3}, lr=0.1)
    optim = optimizer()
    balance = Uncertainty(spec, optim)
    s = torch.tensor([0.0, 0.4, -0.3], requires_grad=True)
    whole = (torch.exp(-s[1:]) * torch.tensor([1.8, 2.5]) + s[1:] / 2).sum()
    (gradient,) = torch.autograd.grad(whole, s)
    balance.learn({"ocr": 1.8, "vqa": 2.5}, World())
    torch.testing.assert_close(balance.values.grad, gradient)
    balance.values.data[0] = 7.0  # what momentum might do
    balance.values.grad[0] = 5.0  # type: ignore[index]
    balance._before[0] = 0.0
    optim.step()
    balance.settle(0)
    assert balance.values[0] == 0
    torch.testing.assert_close(balance.values[1:], (s - 0.1 * gradient).detach()[1:])
    for step in range(800):
        balance.learn(LOSSES, World())
        optim.step()
        balance.settle(step)
    assert balance.weights() == pytest.approx({task: 1 / (2 * loss) for task, loss in LOSSES.items()}, rel=1e-3)
    assert balance.state_dict()["log_variances"].tolist() == pytest.approx(
        [math.log(2 * LOSSES[task]) for task in TASKS], rel=1e-3
    )


def test_losses_of_groups_are_those_of_their_labels() -> None:
    """Values and gradients, in chunks too."""
    (batch, _) = batches()
    hidden = torch.randn(len(batch["labels"].flatten()), 8, generator=torch.manual_seed(0), requires_grad=True)
    head = torch.nn.Linear(8, 9)
    labels, weights = batch["labels"].flatten(), step_weights(batch, "token")
    groups = task_groups(batch, TASKS)
    parts, each = weighted_cross_entropy(hidden, head, labels, weights, groups=groups, chunk=4)
    (first,) = torch.autograd.grad(parts[1], hidden, retain_graph=True)
    for number in range(3):
        mine = torch.where(groups.of == number, weights, 0)
        one, _ = weighted_cross_entropy(hidden, head, labels, mine)
        assert float(parts[number]) == pytest.approx(float(one), abs=1e-5)
        if number == 1:
            torch.testing.assert_close(first, torch.autograd.grad(one, hidden)[0])
    assert float(parts.sum()) == pytest.approx(float((each * weights).sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"kind": "fixed", "weights": {"a": 0, "b": 0}}, "all are 0"),
        ({"kind": "inverse_loss", "tasks": ["a", "a"]}, "a stands there twice"),
        ({"kind": "uncertainty", "tasks": ["a", "b"], "initial": {"c": 1}}, "c is none of the tasks"),
        ({"kind": "gradnorm", "tasks": ["a"]}, "at least 2"),
    ],
)
def test_mistakes_are_told(told: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        TypeAdapter(BalanceSpec).validate_python(told)


def test_a_balance_of_nothing_keeps_nothing() -> None:
    assert Balance(("a", "b")).state_dict() == {}
