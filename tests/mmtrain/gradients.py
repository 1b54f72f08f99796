"""The training command, which leaves each step's gradients in a file."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mmtrain import sft


def main(arguments: list[str]) -> int:
    """`FILE --config ...`. Every rank has the same gradients, so the last to write wins."""
    file, *told = arguments
    steps: list[list[torch.Tensor]] = []

    def keep(optim: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optim.param_groups for p in group["params"]]
        steps.append([p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in parameters])

    kept = register_optimizer_step_pre_hook(keep)
    try:
        code = sft.main(told)
    finally:
        kept.remove()
    torch.save(steps, file)
    return code
