"""Adapters into a model: as children of the modules they change, run by hooks, so that no name of the model moves.

Nothing is wrapped or replaced. `language.layers.0.self_attn.q_proj.weight` stays what it is called, and
`...q_proj.lora.a` stands beside it; checkpoints of the model alone still fit, `fully_shard` and activation
checkpointing see the modules they know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from mmdata import rng
from mmdata.errors import SpecError
from mmtrain import attention
from mmtrain.adapters.lora import Lora, matrix
from mmtrain.adapters.nf4 import quantised
from mmtrain.adapters.small import IA3, Bottleneck, Prefix
from mmtrain.adapters.spec import BottleneckSpec, IA3Spec, LoraSpec, PrefixSpec, is_qlora
from mmtrain.adapters.targets import NAMES, Modules, Target, is_linear, sizes
from mmtrain.components import aliases
from mmtrain.rules import Setting

KINDS = (Lora, IA3, Prefix, Bottleneck)


def install(model: Any, targets: Sequence[Target], *, seed: int) -> None:
    """Put adapters into `targets`, each drawn from the seed and its alias alone, on the device of what it changes.

    Raises SpecError for what cannot be adapted so: NF4 without bitsandbytes, heads that no prefix fits."""
    _quantise(model, targets)
    for target in sorted(targets, key=lambda target: NAMES.index(target.name)):
        module = model.get_submodule(target.module)
        if any(name == target.name for name, _ in module.named_children()):
            raise ValueError(f"{target.alias} has a {target.name} already")
        draws = rng.generator("adapter", seed, target.alias, target.name)
        adapter: Any = _make(module, target, draws)
        adapter.target = target
        adapter.train(module.training)
        module.add_module(target.name, adapter)
        _hook(module, target.name)
        if target.name == "prefix" and module.config._attn_implementation != attention.NAME:
            attention.register()
            model.set_attn_implementation(attention.NAME)


def _make(module: nn.Module, target: Target, draws: Any) -> nn.Module:
    entry = target.entry
    like = next(module.parameters())
    if isinstance(entry, LoraSpec):
        return Lora(entry, matrix(module), target.rank, draws)
    if isinstance(entry, IA3Spec):
        return IA3(sizes(module)[0 if target.scales_input else 1], like)
    if isinstance(entry, PrefixSpec):
        attends: Any = module
        width = int(attends.head_dim)
        heads, rest = divmod(sizes(attends.k_proj)[1], width)
        if rest or sizes(attends.v_proj)[1] != heads * width:
            raise SpecError(f"adapters: {target.alias}: keys and values of unlike heads; prefix tuning does not fit it")
        return Prefix(entry, heads, width, like, draws)
    assert isinstance(entry, BottleneckSpec)
    inside = next((child for child in module.modules() if is_linear(child)), None)
    if inside is None:
        raise SpecError(f"adapters: {target.alias} holds no linear layer that tells its width")
    inputs, outputs = sizes(inside)
    if inside is not module:  # attention or an MLP: as wide as the stream it adds to
        outputs = inputs
    return Bottleneck(entry, inputs if entry.mode == "parallel" else outputs, outputs, like, draws)


def _hook(module: Any, name: str) -> None:
    if name == "prefix":
        module.register_forward_pre_hook(_reached)
    elif name == "ia3" and module.ia3.target.scales_input:
        module.register_forward_pre_hook(_ia3_before)
    elif name == "bottleneck":
        module.register_forward_hook(_bottleneck, with_kwargs=True)
    else:
        module.register_forward_hook({"lora": _lora, "ia3": _ia3_after}[name])


def _lora(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    return module.lora(args[0], output, module)


def _ia3_before(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (module.ia3(args[0]), *args[1:])


def _ia3_after(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    return module.ia3(output)


def _bottleneck(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    inputs = args[0] if args else kwargs.get("hidden_states")
    if isinstance(output, tuple):
        return (module.bottleneck(inputs, output[0]), *output[1:])
    return module.bottleneck(inputs, output)


def _reached(module: Any, args: tuple[Any, ...]) -> None:
    """Another attention than ours does not ask for a prefix, and would go on without it."""
    if module.config._attn_implementation != attention.NAME:
        raise RuntimeError(
            f"prefix tuning needs the attention {attention.NAME!r}, and this model runs "
            f"{module.config._attn_implementation!r}"
        )


HOOKS = frozenset([_lora, _ia3_before, _ia3_after, _bottleneck, _reached])


def _quantise(model: Any, targets: Sequence[Target]) -> None:
    """All linear layers of the components in which there is a QLoRA, in NF4; but no head."""
    entries = {id(target.entry): target.entry for target in targets if is_qlora(target.entry)}
    if not entries:
        return
    modules = Modules(model)
    for entry in entries.values():
        whole = entry.model_copy(update={"layers": None, "last": None})
        for alias in modules.linear(modules.inside(whole, "adapters")):
            layer = modules.by_alias[alias]
            if type(layer) is nn.Linear and alias.split(".")[0] != "head":
                holder, _, name = modules.names[alias].rpartition(".")
                try:
                    setattr(model.get_submodule(holder), name, quantised(layer))
                except ImportError as error:
                    raise SpecError(
                        f"adapters: kind qlora needs bitsandbytes, which cannot be imported ({error}): pip install "
                        "'mmdata[qlora]', or use kind: lora"
                    ) from error


def adapters(model: nn.Module) -> Iterator[tuple[str, Any, Any]]:
    """Every adapter, with the module it is in and that module's name: `(name, module, adapter)`."""
    for name, module in model.named_modules():
        for child in module.children():
            if isinstance(child, KINDS):
                yield name, module, child


def parameter_names(model: nn.Module) -> set[str]:
    """The names of all parameters of adapters."""
    kinds = {id(adapter) for _, _, adapter in adapters(model)}
    return {
        f"{name}.{inner}"
        for name, module in model.named_modules()
        if id(module) in kinds
        for inner, _ in module.named_parameters()
    }


def defaults(model: Any) -> dict[str, Setting]:
    """What holds, by alias, where no rule says otherwise: with adapters in a model only they are trained, without
    weight decay. Empty without any."""
    ours = parameter_names(model)
    if not ours:
        return {}
    return {
        alias: Setting(weight_decay=0.0, adapter=True) if name in ours else Setting(train=False)
        for name, alias in aliases(model).items()
    }


def rest(model: nn.Module) -> None:
    """Put every module of which only adapters are trained into `eval()`, and its adapters back into training: what is
    frozen drops nothing out and keeps its statistics. Call it when it is known which parameters need gradients."""
    found = list(adapters(model))
    if not found:
        return
    ours = {id(parameter) for _, _, adapter in found for parameter in adapter.parameters()}
    for module in model.modules():
        own = [parameter for parameter in module.parameters() if id(parameter) not in ours]
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
    for _, _, adapter in found:
        adapter.train(any(parameter.requires_grad for parameter in adapter.parameters()))
