"""The layers of a model one by one: recomputed in the backward pass, compiled; and what in them is left to chance."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from types import MethodType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch.utils.checkpoint import checkpoint

from mmdata.errors import SpecError
from mmtrain.components import components

_CHANCE = re.compile("drop|mixup")
"""What values are called by which something is left to chance."""
Checkpointing = Literal["none", "full"] | Annotated[int, Field(ge=1)]
"""Which layers are recomputed: none, all, or every k-th."""


def layers(model: Any) -> dict[str, list[torch.nn.Module]]:
    """The transformer layers of each tower and decoder, in order, by its alias: the members of the lists of equal
    modules (`layers`, `blocks`, `h`) that lie in no other such list."""
    found: dict[str, list[torch.nn.Module]] = {}
    for alias, name in components(model).items():
        part = model.get_submodule(name)
        inside: set[int] = set()
        for module in part.modules():
            if not isinstance(module, torch.nn.ModuleList) or id(module) in inside or not len(module):
                continue
            same = len({type(member) for member in module}) == 1
            if same and any(True for _ in module[0].parameters()) and len(list(module[0].children())) > 1:
                known = {id(member) for members in found.values() for member in members}
                found.setdefault(alias, []).extend(member for member in module if id(member) not in known)
                inside |= {id(inner) for member in module for inner in member.modules()}
    return {alias: members for alias, members in found.items() if members}


def recompute(model: Any, which: Checkpointing) -> int:
    """Let layers keep nothing but what enters them, and run again for their gradient, with the same dropout; how many
    do. Losses and gradients stay as they are, to the bit. Raises SpecError where the model has no layers to choose."""
    if which == "none":
        return 0
    every = 1 if which == "full" else which
    chosen = [layer for members in layers(model).values() for at, layer in enumerate(members) if at % every == 0]
    if not chosen:
        raise SpecError(f"activation_checkpointing: {type(model).__name__} has no list of layers; use none")
    for layer in chosen:
        # The method and not the module is wrapped: parameters keep their names, and hooks (FSDP's) stay around it. Both
        # are bound methods, which a copy of the layer has bound to itself.
        setattr(layer, ONCE, layer.forward)
        layer.forward = MethodType(_recomputed(type(layer).forward), layer)
    return len(chosen)


ONCE = "_forward_once"
"""Where a layer that runs again has its own `forward`."""


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        once = getattr(layer, ONCE)
        if not torch.is_grad_enabled() or not layer.training:
            return once(*args, **kwargs)
        return checkpoint(once, *args, use_reentrant=False, **kwargs)

    return run


def compile_layers(model: Any) -> int:
    """Compile each layer by itself, for rows of any length: layers of one kind share their code, so that start-up does
    not grow with depth; how many there are. Raises SpecError where there are none."""
    chosen = [layer for members in layers(model).values() for layer in members]
    if not chosen:
        raise SpecError(f"compile: {type(model).__name__} has no list of layers; set compile: false")
    for layer in chosen:
        layer.compile(dynamic=True)
    return len(chosen)


def chance(model: torch.nn.Module) -> list[str]:
    """Names of modules in which something is dropped, or mixed, at random while they are trained.

    >>> chance(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.1), torch.nn.Dropout(0.0)))
    ['1']
    """
    found = []
    for name, module in model.named_modules():
        drops = isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0
        values = vars(module).items()
        if drops or any(_CHANCE.search(key) and isinstance(value, float) and value > 0 for key, value in values):
            found.append(name)
    return found


def check_chance(model: torch.nn.Module, packs_per_forward: int) -> None:
    """Raises SpecError where dropout would draw once for several packs: draws are keyed by step and pack, so that they
    depend neither on ranks nor on how packs share passes."""
    if packs_per_forward > 1 and (found := chance(model)):
        raise SpecError(
            f"packs_per_forward: {packs_per_forward}, but {found[0]} (and {len(found) - 1} more) drop at random, which "
            "is drawn pack by pack; set packs_per_forward: 1 or the dropout to 0"
        )
