"""AdamW and its schedule."""

from __future__ import annotations

import math

import torch

from mmtrain.spec import OptimSpec


def optimizer(model: torch.nn.Module, spec: OptimSpec) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; matrices decay, vectors (norms, biases) and embeddings do not."""
    tables = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    decay: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decay if parameter.ndim >= 2 and id(parameter) not in tables else rest).append(parameter)
    groups = [{"params": decay, "weight_decay": spec.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas)


def learning_rate(step: int, steps: int, spec: OptimSpec) -> float:
    """The rate of step 0 <= step < steps: linear from zero over the warm-up, then half a cosine down to `min_lr`.

    >>> spec = OptimSpec(lr=1.0, warmup_steps=2, min_lr=0.1)
    >>> [round(learning_rate(s, 6, spec), 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.775, 0.325, 0.1]
    """
    if step < spec.warmup_steps:
        return spec.lr * (step + 1) / spec.warmup_steps
    progress = (step - spec.warmup_steps) / max(1, steps - 1 - spec.warmup_steps)
    return spec.lr * (spec.min_lr + (1 - spec.min_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)
