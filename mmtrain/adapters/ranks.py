"""Ranks by importance: the Fisher information of each weight, and how a budget is dealt out by it."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmdata.errors import SpecError
from mmdata.shards.storage import write_atomic
from mmdata.stream.loader import Batch
from mmtrain.adapters.lora import matrix
from mmtrain.adapters.spec import LoraSpec, RanksSpec
from mmtrain.adapters.targets import Target
from mmtrain.certificate import Strategy
from mmtrain.losses import Norm
from mmtrain.objective import loss_sum

FILE = "adapter_ranks.json"
"""In the run's folder: what was measured, and the ranks that came of it."""


def traces(
    model: Any, targets: Sequence[Target], batches: Iterable[Batch], *, norm: Norm, strategy: Strategy
) -> dict[str, float]:
    """The trace of the empirical Fisher information of each target's weight, by alias: the sum of its squared
    gradients, mean over `batches`, whose loss is the weighted mean of their targets. A weight without a part in the
    loss has 0. The model, its gradients and mode are left as they were; dropout is off."""
    layers = {target.alias: model.get_submodule(target.module) for target in targets}
    needed = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    training = {module: module.training for module in model.modules()}
    totals = dict.fromkeys(layers, 0.0)
    count = 0
    try:
        model.eval()
        model.requires_grad_(False)
        weights = [layer.weight.requires_grad_() for layer in layers.values()]
        for batch in batches:
            summed, weight = loss_sum(model, batch, norm, strategy)
            if not weight:
                continue
            count += 1
            if not summed.requires_grad:  # words alone, and all that is adapted is for pictures
                continue
            gradients = torch.autograd.grad(summed / weight, weights, allow_unused=True)
            for alias, gradient in zip(layers, gradients, strict=True):
                totals[alias] += 0.0 if gradient is None else float(gradient.double().square().sum())
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(needed[name])
        for module, was in training.items():
            module.training = was
    if not count:
        raise SpecError("adapter_ranks: the first packs of the stream hold nothing to train on; set more batches")
    return {alias: value / count for alias, value in totals.items()}


def allot(importance: Mapping[str, float], budget: int, *, least: int = 1, most: int = 64) -> dict[str, int]:
    """Ranks between `least` and `most`, `budget` in all (or `most` each, if that is less), as nearly in proportion to
    `importance` (each >= 0) as whole numbers can be: of all ways, they have the least sum of rank^2 / importance.

    One after the other, each unit goes where that sum grows least, (2 rank + 1) / importance (Webster's method), which
    is the best way because the sum is convex in each rank. Ties go to the lower rank, then to the earlier name.

    >>> allot({"q": 3.0, "k": 1.0, "v": 0.0}, 9, least=1)
    {'q': 6, 'k': 2, 'v': 1}
    """
    if budget < least * len(importance):
        raise SpecError(
            f"adapter_ranks.budget: {budget} is less than {least} for each of {len(importance)} modules; "
            f"give {least * len(importance)} or more, or adapt fewer"
        )
    ranks = dict.fromkeys(importance, least)

    def cost(name: str) -> float:
        return (2 * ranks[name] + 1) / importance[name] if importance[name] > 0 else float("inf")

    names = list(importance)
    queue = [(cost(name), least, at) for at, name in enumerate(names) if least < most]
    heapq.heapify(queue)
    for _ in range(budget - least * len(importance)):
        if not queue:
            break
        _, _, at = heapq.heappop(queue)
        ranks[names[at]] += 1
        if ranks[names[at]] < most:
            heapq.heappush(queue, (cost(names[at]), ranks[names[at]], at))
    return ranks


def of_lora(targets: Sequence[Target]) -> list[Target]:
    """Those that have a rank. Raises SpecError for none."""
    found = [target for target in targets if isinstance(target.entry, LoraSpec)]
    if not found:
        raise SpecError("adapter_ranks: there is no LoRA to give ranks to; name one under `adapters`")
    return found


def measured(model: Any, spec: RanksSpec, targets: Sequence[Target], found: Mapping[str, float]) -> dict[str, int]:
    """The ranks of LoRA targets by the traces `found`, no rank beyond what the layer's sides allow."""
    ranks = allot(found, spec.budget, least=spec.least, most=spec.most)
    for target in of_lora(targets):
        side = min(matrix(model.get_submodule(target.module)).shape)
        if ranks[target.alias] > side:
            raise SpecError(
                f"adapter_ranks.most: {target.alias} would have rank {ranks[target.alias]}, and its smaller side is "
                f"{side}; set most to {side} or the budget lower"
            )
    return ranks


def write(path: Path, found: Mapping[str, float], ranks: Mapping[str, int]) -> None:
    """Keep what was decided, atomically."""
    body = {alias: {"trace": found[alias], "rank": ranks[alias]} for alias in ranks}
    write_atomic(path, (json.dumps(body, indent=1) + "\n").encode())


def read(path: Path) -> dict[str, int]:
    """The ranks that were decided. Raises SpecError for a file that does not say them."""
    try:
        return {alias: int(entry["rank"]) for alias, entry in json.loads(path.read_text()).items()}
    except FileNotFoundError as error:
        raise SpecError(f"{path} is missing: the run's ranks cannot be told; start over with --resume never") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SpecError(f"{path} is damaged: {error}; start over with --resume never") from error


def lines(found: Mapping[str, float], ranks: Mapping[str, int]) -> str:
    """What was decided, most important first."""
    order = sorted(ranks, key=lambda alias: -found[alias])
    return "\n".join(f"rank   {ranks[alias]:3d}  Fisher trace {found[alias]:.3e}  {alias}" for alias in order)
