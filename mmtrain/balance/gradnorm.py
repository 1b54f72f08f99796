"""GradNorm: weights under which the gradients of tasks at a shared layer are of like length (Chen et al., 2018)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule

from mmdata.errors import SpecError
from mmdata.types import World
from mmtrain.balance.spec import GradNormSpec
from mmtrain.balance.weights import Learned
from mmtrain.components import aliases

if TYPE_CHECKING:
    from mmtrain.job import Job

FLOOR = 1e-3
"""No weight falls below it: one that is 0 has no gradient to come back by."""
_LAYER = re.compile(r"(language\.(?:.*\.)?(?:layers|blocks|h)\.)(\d+)\.")


class GradNorm(Learned):
    """See `GradNormSpec`."""

    def __init__(self, spec: GradNormSpec, job: Job) -> None:
        super().__init__(spec.tasks, "weights", [1.0] * len(spec.tasks), job.optim, spec.lr)
        if isinstance(job.model, FSDPModule):
            raise SpecError("balance: gradnorm measures gradients of whole weights; set distributed.mode: ddp")
        self.spec = spec
        named = aliases(job.model)
        trained = {named[name]: p for name, p in job.model.named_parameters() if job.settings[named[name]].train}
        chosen = shared_layer(list(trained), spec.layer)
        self.layer = {alias: trained[alias] for alias in chosen}
        self.first: dict[str, float] = {}
        """The tasks' losses when each was seen first."""
        self._gradients: torch.Tensor | None = None

    def weights(self) -> dict[str, float]:
        return dict(zip(self.tasks, self.values.detach().tolist(), strict=True))

    def measures(self, step: int) -> bool:
        self._gradients = None
        return step % self.spec.every == 0 and any(p.requires_grad for p in self.layer.values())

    def measure(self, parts: torch.Tensor, scale: float) -> None:
        members = [p for p in self.layer.values() if p.requires_grad]
        rows = []
        for part in parts:
            found: Sequence[torch.Tensor | None] = [None] * len(members)
            if part.requires_grad:
                found = torch.autograd.grad(part * scale, members, retain_graph=True, allow_unused=True)
            rows.append(
                torch.cat(
                    [
                        (torch.zeros_like(p) if gradient is None else gradient).flatten().float()
                        for p, gradient in zip(members, found, strict=True)
                    ]
                )
            )
        gradients = torch.stack(rows) / scale
        self._gradients = gradients if self._gradients is None else self._gradients + gradients

    def learn(self, losses: Mapping[str, float], world: World) -> None:
        self.first = {**losses, **self.first}
        if self._gradients is None:
            return
        if world.ranks > 1:
            distributed.all_reduce(self._gradients)
        norms = dict(zip(self.tasks, self._gradients.norm(dim=1).tolist(), strict=True))
        norms = {task: norm for task, norm in norms.items() if task in losses}
        self._gradients = None
        self.push(pull(self.weights(), norms, losses, self.first, self.spec.alpha))

    @torch.no_grad()
    def settle(self, step: int) -> None:
        super().settle(step)
        self.values.clamp_(min=FLOOR)
        self.values.mul_(len(self.tasks) / self.values.sum())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "first": dict(self.first)}

    def load_state_dict(self, saved: dict[str, Any], /) -> None:
        super().load_state_dict(saved)
        self.first = {task: float(loss) for task, loss in saved["first"].items()}


def pull(
    weights: Mapping[str, float],
    norms: Mapping[str, float],
    losses: Mapping[str, float],
    first: Mapping[str, float],
    alpha: float,
) -> dict[str, float]:
    """The gradient of GradNorm's loss with respect to each weight. `norms` are those of the gradients of weight * loss
    at the shared layer.

    That loss is the sum of |norm - target| with target = mean norm * r ** alpha, which counts as a constant; r is a
    task's loss over its first one, over the mean of these. As norm = weight * |gradient of the task|, its derivative is
    sign(norm - target) * norm / weight.

    >>> pull({"a": 1.0, "b": 1.0}, {"a": 4.0, "b": 2.0}, {"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 4.0}, 1.0)
    {'a': 4.0, 'b': -2.0}

    The ratios are 0.5 and 0.75, so r is 0.8 and 1.2; the mean norm is 3, so targets are 2.4 and 3.6: a is too long.
    """
    ratios = {task: losses[task] / max(first[task], 1e-8) for task in norms}
    mean_ratio = max(sum(ratios.values()) / max(len(ratios), 1), 1e-8)
    mean_norm = sum(norms.values()) / max(len(norms), 1)
    found = {}
    for task, norm in norms.items():
        target = mean_norm * (ratios[task] / mean_ratio) ** alpha
        sign = (norm > target) - (norm < target)
        found[task] = sign * norm / weights[task]
    return found


def shared_layer(trained: list[str], pattern: str | None) -> list[str]:
    """Which of the trained parameters, by alias, are measured. Raises SpecError where there are none.

    >>> shared_layer(["vision.a", "language.layers.0.w", "language.layers.1.w", "language.layers.1.b", "head.w"], None)
    ['language.layers.1.w', 'language.layers.1.b']
    """
    if pattern is not None:
        found = [alias for alias in trained if re.fullmatch(pattern, alias)]
        if not found:
            raise SpecError(f"balance.layer: {pattern} matches nothing that is trained; see --dry-run for its names")
        return found
    layers = {alias: match for alias in trained if (match := _LAYER.match(alias))}
    if not layers:
        raise SpecError("balance.layer: no layer of the language model is trained; name what tasks share")
    last = max(int(match[2]) for match in layers.values())
    return [alias for alias, match in layers.items() if int(match[2]) == last]
