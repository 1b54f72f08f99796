"""Where in a model the first value comes to be that is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def watched(model: torch.nn.Module) -> Iterator[list[str]]:
    """Tells of the first module whose output is not finite; inner modules come before those that hold them."""
    first: list[str] = []

    def look(name: str, module: torch.nn.Module, output: Any) -> None:
        if first or all(tensor.isfinite().all() for tensor in _tensors(output)):
            return
        bad = [key for key, value in module.named_parameters(recurse=False) if not value.isfinite().all()]
        why = f", whose {' and '.join(bad)} is not finite" if bad else ""
        first.append(f"the output of {name} ({type(module).__name__}){why}")

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield first
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
