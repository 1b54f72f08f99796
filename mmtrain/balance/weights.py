"""Weights of tasks: fixed, by inverse losses, by learned uncertainty; and how a step's targets come to weigh so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmdata.errors import RunError
from mmdata.stream.loader import Batch
from mmdata.types import World
from mmtrain.balance.spec import FixedSpec, InverseLossSpec, UncertaintySpec
from mmtrain.distributed import sums
from mmtrain.losses import Groups
from mmtrain.rows import borders
from mmtrain.weighting import by_task


class Balance:
    """What decides how much tasks count; a part of the job. Each step asks for `weights`, then tells what came of them:
    `learn` before the optimiser moves, `settle` after. A step that moves nothing tells nothing."""

    remedy = "name it in balance.tasks"
    """What to do about a task that it does not know."""
    learned: Mapping[str, torch.nn.Parameter] = {}
    """What of it is in the optimiser, by names that no parameter of a model has."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)

    def weights(self) -> dict[str, float]:
        """What the mean loss of each task is multiplied by in the coming step."""
        raise NotImplementedError

    @property
    def weighs(self) -> bool:
        """Whether losses are weighted at all."""
        return True

    def measures(self, step: int) -> bool:
        """Whether the gradient of each task is asked for in this step (`measure`)."""
        return False

    def measure(self, parts: torch.Tensor, scale: float) -> None:
        """Take in the tasks' parts of the step's loss, [tasks] in their order, of one forward pass; they are
        differentiated once more after it. `scale` is the factor that keeps gradients of fp16 from vanishing."""

    def learn(self, losses: Mapping[str, float], world: World) -> None:
        """Take in the mean loss of each task that the step had, the same on all ranks."""

    def settle(self, step: int) -> None:
        """The optimiser has moved in this step."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, saved: dict[str, Any], /) -> None: ...


class Fixed(Balance):
    remedy = "give it a weight in balance.weights"

    def __init__(self, spec: FixedSpec) -> None:
        super().__init__(tuple(spec.weights))
        self._weights = dict(spec.weights)

    def weights(self) -> dict[str, float]:
        return dict(self._weights)


class InverseLoss(Balance):
    """See `inverse_loss`; tasks are alike until each has been seen."""

    def __init__(self, spec: InverseLossSpec) -> None:
        super().__init__(spec.tasks)
        self.smoothing = spec.smoothing
        self.losses: dict[str, float] = {}

    def weights(self) -> dict[str, float]:
        if self.losses.keys() != set(self.tasks):
            return dict.fromkeys(self.tasks, 1 / len(self.tasks))
        return inverse_loss({task: self.losses[task] for task in self.tasks})

    def learn(self, losses: Mapping[str, float], world: World) -> None:
        self.losses = smoothed(self.losses, losses, self.smoothing)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": dict(self.losses)}

    def load_state_dict(self, saved: dict[str, Any], /) -> None:
        self.losses = {task: float(loss) for task, loss in saved["losses"].items()}


class Learned(Balance):
    """Values of tasks that the run's optimiser moves: float32 [tasks]. What it does to those of tasks that a step has
    not is taken back."""

    def __init__(
        self, tasks: Sequence[str], name: str, initial: Sequence[float], optim: torch.optim.Optimizer, lr: float
    ) -> None:
        super().__init__(tasks)
        device = optim.param_groups[0]["params"][0].device
        self.values = torch.nn.Parameter(torch.tensor(initial, dtype=torch.float32, device=device))
        self.name = name
        self.learned = {f"balance.{name}": self.values}
        self._before = self.values.detach().clone()
        self._present: list[bool] = []
        optim.add_param_group(
            {"params": [self.values], "lr": lr, "peak": lr, "part": "balance", "weight_decay": 0.0, "beside": True}
        )

    def push(self, gradients: Mapping[str, float]) -> None:
        """What the optimiser is to go by, of each task that the step had."""
        self._present = [task in gradients for task in self.tasks]
        self._before = self.values.detach().clone()
        found = [gradients.get(task, 0.0) for task in self.tasks]
        self.values.grad = torch.tensor(found, dtype=torch.float32, device=self.values.device)

    @torch.no_grad()
    def settle(self, step: int) -> None:
        if self._present:
            present = torch.tensor(self._present, device=self.values.device)
            self.values.copy_(torch.where(present, self.values, self._before))
            self._present = []

    def state_dict(self) -> dict[str, Any]:
        return {self.name: self.values.detach()}

    @torch.no_grad()
    def load_state_dict(self, saved: dict[str, Any], /) -> None:
        self.values.copy_(saved[self.name])


class Uncertainty(Learned):
    """See `UncertaintySpec`."""

    def __init__(self, spec: UncertaintySpec, optim: torch.optim.Optimizer) -> None:
        super().__init__(
            spec.tasks, "log_variances", [spec.initial.get(task, 0.0) for task in spec.tasks], optim, spec.lr
        )

    def weights(self) -> dict[str, float]:
        return dict(zip(self.tasks, torch.exp(-self.values.detach()).tolist(), strict=True))

    def learn(self, losses: Mapping[str, float], world: World) -> None:
        now = self.weights()
        self.push({task: 0.5 - now[task] * loss for task, loss in losses.items()})


def inverse_loss(losses: Mapping[str, float]) -> dict[str, float]:
    """Weights in inverse proportion to losses, together 1. A loss of almost nothing counts as 1e-8.

    >>> {task: round(weight, 4) for task, weight in inverse_loss({"vqa": 2.5, "caption": 3.2, "ocr": 1.8}).items()}
    {'vqa': 0.3154, 'caption': 0.2464, 'ocr': 0.4381}
    """
    inverse = {task: 1 / max(loss, 1e-8) for task, loss in losses.items()}
    total = sum(inverse.values())
    return {task: each / total for task, each in inverse.items()}


def smoothed(before: Mapping[str, float], losses: Mapping[str, float], keep: float) -> dict[str, float]:
    """Moving averages of losses: a task's first loss as it is, then `keep` of what was known; tasks in their order.

    >>> smoothed({"a": 2.0}, {"a": 1.0, "b": 3.0}, 0.75)
    {'a': 1.75, 'b': 3.0}
    """
    found = dict(before)
    for task, loss in losses.items():
        found[task] = keep * found[task] + (1 - keep) * loss if task in found else loss
    return dict(sorted(found.items()))


def balanced(
    balance: Balance, batches: Sequence[Batch], weights: Sequence[torch.Tensor], world: World
) -> tuple[list[torch.Tensor], dict[str, float]]:
    """The weights of each batch's labels, changed so that sum(weight * loss) / sum of `weights` over all ranks is the
    sum of weight * mean loss over tasks; and the tasks' weights. Raises RunError, on every rank, for samples of a task
    that nobody has named."""
    now = balance.weights()
    mine: dict[str, float] = {}
    for batch, weight in zip(batches, weights, strict=True):
        for task, (_, amount) in by_task(batch, torch.zeros_like(weight), weight).items():
            mine[task] = mine.get(task, 0.0) + amount
    strange = sorted(mine.keys() - set(balance.tasks))
    unknown, *amounts = sums([float(len(strange)), *(mine.get(task, 0.0) for task in balance.tasks)], world)
    if unknown:
        told = ", ".join(strange[:3]) or "another rank has it"
        raise RunError(
            f"balance: samples of a task that is none of {', '.join(balance.tasks)}: {told}; {balance.remedy}"
        )
    if not balance.weighs:
        return list(weights), now
    total = sum(amounts)
    factors = {task: now[task] * total / amount for task, amount in zip(balance.tasks, amounts, strict=True) if amount}
    return [
        weight * _spread(batch, [factors.get(task, 0.0) for task in batch["tasks"]], weight)
        for batch, weight in zip(batches, weights, strict=True)
    ], now


def task_groups(batch: Batch, tasks: Sequence[str]) -> Groups:
    """The task of each label by its number; labels of no task, which weigh nothing, are counted to the first."""
    numbers = {task: number for number, task in enumerate(tasks)}
    each = torch.tensor([numbers.get(task, 0) for task in batch["tasks"]], device=batch["input_ids"].device)
    return Groups(torch.repeat_interleave(each, borders(batch).diff().to(each.device)), len(tasks))


def _spread(batch: Batch, values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """The value of each segment at each of its places."""
    each = torch.tensor(values, dtype=like.dtype, device=like.device)
    return torch.repeat_interleave(each, borders(batch).diff().to(like.device))
