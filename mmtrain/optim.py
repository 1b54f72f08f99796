"""AdamW over what the rules train, and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import Field

from mmdata.spec import Model
from mmtrain.components import aliases
from mmtrain.rules import Setting


class OptimSpec(Model):
    """AdamW under a cosine with warm-up."""

    lr: float = Field(3e-3, gt=0)
    """Peak learning rate."""
    min_lr: float = Field(0.1, ge=0, le=1)
    """Last learning rate, as a share of the peak."""
    warmup_steps: int = Field(5, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    """For matrices; norms, biases and embeddings have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""


def optimizer(model: Any, spec: OptimSpec, settings: Mapping[str, Setting]) -> torch.optim.AdamW:
    """AdamW over all parameters that are trained at some time, in groups of one peak rate (`peak`) and weight decay.

    `settings` are those of `rules.resolve`, by alias. Where they do not say otherwise, matrices decay; vectors (norms,
    biases) and embeddings do not. Parameters that are still frozen have no gradient and are passed over.
    """
    named = aliases(model)
    tables = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        setting = settings[named[name]]
        if not setting.train:
            continue
        decays = parameter.ndim >= 2 and id(parameter) not in tables
        decay = (spec.weight_decay if decays else 0.0) if setting.weight_decay is None else setting.weight_decay
        groups.setdefault((setting.rate(spec.lr), decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "lr": peak, "peak": peak, "weight_decay": decay}
            for (peak, decay), members in groups.items()
        ],
        betas=spec.betas,
    )


def thaw(model: Any, settings: Mapping[str, Setting], progress: float) -> list[str]:
    """Let the rules' parameters need gradients, or not, at `progress` (0 to 1) of the run, and put modules of which all
    is frozen into `eval()` (their dropout and statistics stand still too). Answers the aliases that are trained now.
    Call it after `model.train()`."""
    trained = []
    named = aliases(model)
    for name, parameter in model.named_parameters():
        setting = settings[named[name]]
        parameter.requires_grad_(setting.train and progress >= setting.freeze_until)
        if parameter.requires_grad:
            trained.append(named[name])
    for module in model.modules():
        if not _any_trained(module.parameters()) and next(module.parameters(), None) is not None:
            module.eval()
    return trained


def _any_trained(parameters: Iterable[torch.nn.Parameter]) -> bool:
    return any(parameter.requires_grad for parameter in parameters)


def set_rates(optim: torch.optim.Optimizer, factor: float) -> None:
    """Each group's rate: its peak times `factor`."""
    for group in optim.param_groups:
        group["lr"] = group["peak"] * factor


def schedule(step: int, steps: int, spec: OptimSpec) -> float:
    """The share of the peak rate in step 0 <= step < steps: linear from zero over the warm-up, then half a cosine down
    to `min_lr`.

    >>> spec = OptimSpec(warmup_steps=2, min_lr=0.1)
    >>> [round(schedule(s, 6, spec), 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.775, 0.325, 0.1]
    """
    if step < spec.warmup_steps:
        return (step + 1) / spec.warmup_steps
    progress = (step - spec.warmup_steps) / max(1, steps - 1 - spec.warmup_steps)
    return spec.min_lr + (1 - spec.min_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
