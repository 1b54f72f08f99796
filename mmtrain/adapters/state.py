"""The adapters of a model as tensors: taken, put back, and merged into the weights they change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mmdata.errors import SpecError
from mmtrain.adapters import install, nf4
from mmtrain.adapters.install import adapters
from mmtrain.adapters.lora import Lora, matrix
from mmtrain.adapters.small import Bottleneck, Prefix
from mmtrain.adapters.targets import is_linear


def adapter_state(model: nn.Module, also: Iterable[str] = ()) -> dict[str, torch.Tensor]:
    """All tensors of the adapters, by their names in the model, and of the parameters `also`; detached, and whole where
    they are spread over ranks (then every rank has to call it)."""
    wanted = set(also)
    prefixes = {f"{name}.{adapter.target.name}." for name, _, adapter in adapters(model)}
    taken = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name in wanted or any(name.startswith(prefix) for prefix in _prefixes_of(name, prefixes))
    }
    return {name: _whole(tensor.detach()) for name, tensor in taken.items()}


def _prefixes_of(name: str, prefixes: set[str]) -> Iterable[str]:
    """Those among `prefixes` that `name` may begin with, without a look at all of them."""
    words = name.split(".")
    for count in range(1, len(words)):
        if (start := ".".join(words[:count]) + ".") in prefixes:
            yield start


def _whole(tensor: Any) -> torch.Tensor:
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def load_adapter_state(model: nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    """Put what `adapter_state` took into a model with the same adapters. Raises SpecError, before anything is changed,
    for tensors that are missing, have no place or have other shapes."""
    own = model.state_dict()
    expected = adapter_state(model)
    problems = [f"{name} is missing" for name in expected if name not in saved]
    problems += [f"{name} has no place in the model" for name in saved if name not in own]
    problems += [
        f"{name} is {list(saved[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in saved and saved[name].shape != tensor.shape
    ]
    if problems:
        raise SpecError(f"these adapters do not fit this model: {problems[0]} (and {len(problems) - 1} more)")
    with torch.no_grad():
        for name, tensor in saved.items():
            place: Any = own[name]
            if hasattr(place, "device_mesh"):
                from torch.distributed.tensor import distribute_tensor

                tensor = distribute_tensor(tensor.to(place.device), place.device_mesh, place.placements)
            place.copy_(tensor)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add LoRA, rsLoRA, DoRA and IA3 to the weights they change, and take the adapters out: the model does the same
    without them, to rounding. Weights in 4 bits cannot hold the sum: they become what they stood for, in full.

    Raises SpecError, before anything is changed, where that cannot be: prefixes and bottlenecks are no change of
    weights, and shared weights would change in two places."""
    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    problems = []
    for _, module, adapter in adapters(model):
        alias = adapter.target.alias
        if isinstance(adapter, Prefix):
            problems.append(f"{alias}: a prefix is keys and values of its own, no change of weights")
        elif isinstance(adapter, Bottleneck):
            problems.append(f"{alias}: a bottleneck is not linear, and no weight can hold it")
        elif users[id(module.weight)] > 1:
            problems.append(f"{alias}: its weight is shared with another module, which would change too")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SpecError(f"adapters cannot be merged: {problems[0]}{more}")
    for name, module in list(model.named_modules()):
        if hasattr(module, "dequantised"):
            holder, _, last = name.rpartition(".")
            setattr(model.get_submodule(holder), last, nf4.full(module))
    for _, module, adapter in list(adapters(model)):
        if isinstance(adapter, Lora):
            _set(module, adapter.merged(matrix(module)))
        elif adapter.target.scales_input:
            _set(module, matrix(module).float() * adapter.scale)
        else:
            _set(module, matrix(module).float() * adapter.scale[:, None])
            if module.bias is not None:
                module.bias.mul_(adapter.scale)
    remove(model)


@contextmanager
def off(model: nn.Module) -> Iterator[None]:
    """Inside, the model is what it is without its adapters; their weights stay where they are."""
    taken: list[tuple[Any, str, Any]] = []
    hooks: list[tuple[Any, dict[Any, Any]]] = []
    for _, module, adapter in list(adapters(model)):
        name = adapter.target.name
        taken.append((module, name, module._modules.pop(name)))
        for held in (module._forward_hooks, module._forward_pre_hooks):
            hooks.append((held, dict(held)))
            for number in [number for number, hook in held.items() if hook in install.HOOKS]:
                held.pop(number)
    try:
        yield
    finally:
        for held, before in reversed(hooks):
            held.clear()
            held.update(before)
        for module, name, adapter in reversed(taken):
            module._modules[name] = adapter


def remove(model: nn.Module) -> None:
    """Take all adapters out; the weights stay as they are."""
    for _, module, adapter in list(adapters(model)):
        delattr(module, adapter.target.name)
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for number, hook in list(hooks.items()):
                if hook in install.HOOKS:
                    hooks.pop(number)
                    module._forward_hooks_with_kwargs.pop(number, None)


def _set(layer: Any, weight: torch.Tensor) -> None:
    assert is_linear(layer)
    layer.weight.copy_(weight.T if isinstance(layer, Conv1D) else weight)
