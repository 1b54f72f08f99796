"""Which modules an adapter goes to: by component, role and layers, never outside what was named."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from mmdata.errors import SpecError
from mmtrain.adapters.spec import BottleneckSpec, IA3Spec, LoraSpec, Place, PrefixSpec, is_qlora
from mmtrain.components import components, module_aliases
from mmtrain.rules import LAYER

NAMES = ("lora", "ia3", "prefix", "bottleneck")
"""What an adapter is called in the module it adapts, in the order in which several of one module are put in."""

_ATTENTION = re.compile(r"attn|attention")
_KEYS_VALUES = re.compile(r"(k_proj|v_proj|key|value|k_lin|v_lin|qkv|qkv_proj|query_key_value|c_attn|\.[kv])$")
_MLP_LAST = re.compile(r"(^|\.)(down_proj|fc2|c_proj|w2|wo|linear_fc2|dense_4h_to_h|lin2|output\.dense|down)$")
_MLP = re.compile(r"mlp|feed_forward|feedforward|ffn|moe")
_HALVES = {"fc2": "mlp"}
"""What ends an MLP that is no module, where a layer holds it itself: Whisper's."""
_MIXER = re.compile(r"(^|\.)(conv|mamba|mixer|recurrent|temporal_block)\.")
"""Neither attention nor MLP: what mixes tokens otherwise."""
_ROUTER = re.compile(r"(^|\.)(gate|router|router\.classifier|shared_expert_gate)$")

ATTENTION_ONLY = "set targets: attention, or names of linear modules; rules can train the experts themselves"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A module that is to be adapted, and how."""

    module: str
    """Its name in the model."""
    alias: str
    entry: LoraSpec | IA3Spec | PrefixSpec | BottleneckSpec
    rank: int = 0
    """Of a LoRA."""
    scales_input: bool = False
    """Of an IA3: it scales what goes into the module."""

    @property
    def name(self) -> str:
        """What the adapter is called in its module."""
        return "lora" if isinstance(self.entry, LoraSpec) else self.entry.kind


def is_linear(module: torch.nn.Module) -> bool:
    """Whether it is a linear layer that is called as a module: torch's, GPT-2's, or one in 4 bits."""
    return isinstance(module, torch.nn.Linear | Conv1D)


def sizes(module: torch.nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    assert isinstance(module, torch.nn.Linear)
    return module.in_features, module.out_features


def fused(module: torch.nn.Module) -> list[str]:
    """The parameters [experts, ., .] of a module that holds the experts of a layer, which are no modules themselves."""
    if not hasattr(module, "num_experts") and "expert" not in type(module).__name__.lower():
        return []
    return [name for name, parameter in module.named_parameters(recurse=False) if parameter.ndim == 3]


class Modules:
    """The modules of a model without its adapters, by alias, in the order of the model."""

    def __init__(self, model: Any) -> None:
        found = dict(model.named_modules())
        # torch's own attention uses the weights of its layers and never calls them: an adapter there would do nothing.
        closed = [f"{name}." for name, module in found.items() if isinstance(module, torch.nn.MultiheadAttention)]
        closed += [f"{name}." for name in found if name.rpartition(".")[2] in NAMES]
        parts = components(model).values()
        self.names = {
            alias: name
            for name, alias in module_aliases(model).items()
            if not any(f"{name}.".startswith(prefix) for prefix in closed)
            and not any(part.startswith(f"{name}.") for part in parts)  # what holds the parts is none of them
        }
        self.by_alias = {alias: found[name] for alias, name in self.names.items()}
        self.experts = {alias: names for alias, module in self.by_alias.items() if (names := fused(module))}

    def refuse_experts(self, mine: Iterable[str], where: str, what: str, remedy: str) -> None:
        """Raises SpecError where experts without modules are among what is to be adapted: nothing here reaches them,
        and a model whose MLPs were left out would look as if they were not."""
        for alias in mine:
            if alias in self.experts:
                raise SpecError(
                    f"{where}: {alias} keeps all experts in one tensor ({', '.join(self.experts[alias])}), which "
                    f"{what}; {remedy}"
                )

    def inside(self, place: Place, where: str) -> list[str]:
        """The aliases in a component and range of layers. Raises SpecError for one that is not there."""
        if place.match is not None:
            mine = [alias for alias in self.by_alias if re.fullmatch(place.match, alias)]
        else:
            mine = [alias for alias in self.by_alias if alias.split(".")[0] == place.component]
        if not mine:
            parts = dict.fromkeys(alias.split(".")[0] for alias in self.by_alias)
            said = (
                f"component: no {place.component!r}" if place.match is None else f"match: {place.match!r} has nothing"
            )
            raise SpecError(f"{where}.{said} in this model; its parts are {', '.join(parts)}")
        if place.layers is None and place.last is None:
            return mine
        kept = []
        for part in dict.fromkeys(alias.split(".")[0] for alias in mine):
            numbers = {alias: _layer(alias) for alias in mine if alias.split(".")[0] == part}
            # Counted over all of the part: a pattern may hold the lower layers only.
            total = 1 + max((_layer(alias) for alias in self.by_alias if alias.split(".")[0] == part), default=-1)
            first, last = place.layers or (max(0, total - (place.last or 0)), total - 1)
            if last >= total or (place.last or 0) > total:
                key = "layers" if place.layers else "last"
                raise SpecError(f"{where}.{key}: {part} has {total} layers, numbered from 0")
            kept += [alias for alias, number in numbers.items() if first <= number <= last]
        return kept

    def linear(self, mine: Iterable[str]) -> list[str]:
        return [alias for alias in mine if is_linear(self.by_alias[alias])]

    def of_role(self, mine: Sequence[str], role: str) -> list[str]:
        """The linear modules of a role among `mine`. In a part with layers, an MLP is in one; in others it is all that
        is no attention."""
        linear = self.linear(mine)
        if role == "all-linear":
            return linear
        if role == "attention":
            return [alias for alias in linear if _ATTENTION.search(_tail(alias))]
        layered = {alias.split(".")[0] for alias in self.by_alias if _layer(alias) >= 0}
        return [
            alias
            for alias in linear
            if not _ATTENTION.search(_tail(alias))
            and not _ROUTER.search(alias)
            and not _MIXER.search(_tail(alias))
            and (_layer(alias) >= 0 or alias.split(".")[0] not in layered)
        ]

    def named(self, mine: Sequence[str], wanted: Sequence[str], where: str) -> list[str]:
        """Those of `mine` whose alias ends in one of the names. Raises SpecError for a name that none has."""
        for name in wanted:
            if not any(f".{alias}".endswith(f".{name}") for alias in mine):
                self.refuse_experts(
                    [alias for alias, held in self.experts.items() if alias in mine and name in held],
                    f"{where}.targets: {name}",
                    "no adapter reaches",
                    ATTENTION_ONLY,
                )
                known = dict.fromkeys(alias.rpartition(".")[2] for alias in self.linear(mine))
                raise SpecError(f"{where}.targets: no module {name!r} there; its linear ones are {', '.join(known)}")
        return [alias for alias in mine if any(f".{alias}".endswith(f".{name}") for name in wanted)]


def find(model: Any, entries: Sequence[Place]) -> list[Target]:
    """The targets of all entries. Raises SpecError, naming the entry, for what the model does not have, for an entry
    without any target, and for two of one kind that meet in a module."""
    modules = Modules(model)
    finders: Mapping[type, Callable[[Modules, Any, list[str], str], list[Target]]] = {
        LoraSpec: _lora,
        IA3Spec: _ia3,
        PrefixSpec: _prefix,
        BottleneckSpec: _bottleneck,
    }
    found: list[Target] = []
    taken: dict[tuple[str, str], int] = {}
    for at, entry in enumerate(entries):
        where = f"adapters.{at}"
        mine = finders[type(entry)](modules, entry, modules.inside(entry, where), where)
        if not mine:
            raise SpecError(f"{where}.targets: nothing of that kind in {entry.component or entry.match}")
        for target in mine:
            before = taken.setdefault((target.module, target.name), at)
            if before != at:
                raise SpecError(f"{where}: {target.alias} has a {target.name} already, by adapters.{before}")
        found += mine
    return found


def target(modules: Modules, alias: str, entry: Any, **more: Any) -> Target:
    """The target at an alias."""
    return Target(module=modules.names[alias], alias=alias, entry=entry, **more)


def _lora(modules: Modules, entry: LoraSpec, mine: list[str], where: str) -> list[Target]:
    if is_qlora(entry):
        whole = modules.inside(entry.model_copy(update={"layers": None, "last": None}), where)
        modules.refuse_experts(whole, where, "would stay as it is beside layers in 4 bits", "use kind: lora")
    if isinstance(entry.targets, str):
        if entry.targets != "attention":
            modules.refuse_experts(mine, f"{where}.targets: {entry.targets}", "no LoRA reaches", ATTENTION_ONLY)
        chosen = modules.of_role(mine, entry.targets)
    else:
        chosen = modules.named(mine, entry.targets, where)
        _only_linear(modules, chosen, where)
    return [target(modules, alias, entry, rank=entry.rank) for alias in chosen]


def _ia3(modules: Modules, entry: IA3Spec, mine: list[str], where: str) -> list[Target]:
    if not isinstance(entry.targets, str):
        chosen = modules.named(mine, entry.targets, where)
        _only_linear(modules, chosen, where)
        inner = set(modules.named(mine, entry.feedforward, where))
        return [target(modules, alias, entry, scales_input=alias in inner) for alias in chosen]
    outer, inner = [], set()
    if entry.targets != "attention":
        modules.refuse_experts(mine, f"{where}.targets: {entry.targets}", "no IA3 reaches", ATTENTION_ONLY)
    if entry.targets in ("all", "attention"):
        outer = [alias for alias in modules.of_role(mine, "attention") if _KEYS_VALUES.search(alias)]
    if entry.targets in ("all", "mlp"):
        inner = {alias for alias in modules.of_role(mine, "mlp") if _MLP_LAST.search(alias)}
    chosen = [alias for alias in mine if alias in inner or alias in set(outer)]
    return [target(modules, alias, entry, scales_input=alias in inner) for alias in chosen]


def _prefix(modules: Modules, entry: PrefixSpec, mine: list[str], where: str) -> list[Target]:
    chosen = [
        alias
        for alias in mine
        if _ATTENTION.search(alias.rpartition(".")[2])
        and hasattr(modules.by_alias[alias], "config")
        and hasattr(modules.by_alias[alias], "k_proj")
    ]
    if not chosen:
        raise SpecError(f"{where}: no attention with keys and values of its own there; prefixes go to decoders")
    for alias in chosen:
        if getattr(modules.by_alias[alias], "sliding_window", None):
            raise SpecError(f"{where}: {alias} sees a sliding window only, and would lose its prefix; leave it out")
    return [target(modules, alias, entry) for alias in chosen]


def _bottleneck(modules: Modules, entry: BottleneckSpec, mine: list[str], where: str) -> list[Target]:
    if not isinstance(entry.targets, str):
        return [target(modules, alias, entry) for alias in modules.named(mine, entry.targets, where)]
    if entry.targets != "attention":
        modules.refuse_experts(mine, f"{where}.targets: {entry.targets}", "tells no width", ATTENTION_ONLY)
    chosen = []
    for alias in mine:
        inside = LAYER.search(f"{alias}.")
        tail = alias[inside.end() :] if inside else ""
        if not tail or "." in tail or not any(map(is_linear, modules.by_alias[alias].modules())):
            continue
        if tail in _HALVES:
            kind = _HALVES[tail]
        elif tail != "qkv" and _ATTENTION.search(tail):
            kind = "attention"
        elif _MLP.search(tail):
            kind = "mlp"
        else:
            continue
        if tail in _HALVES and entry.mode == "parallel" and entry.targets in ("all", kind):
            raise SpecError(f"{where}.mode: {alias}: the MLPs there are no modules; use sequential, or name targets")
        if entry.targets in ("all", kind):
            chosen.append(alias)
    return [target(modules, alias, entry) for alias in chosen]


def _only_linear(modules: Modules, chosen: Sequence[str], where: str) -> None:
    for alias in chosen:
        if not is_linear(modules.by_alias[alias]):
            kind = type(modules.by_alias[alias]).__name__
            raise SpecError(f"{where}.targets: {alias} is a {kind}; this kind of adapter is for linear layers")


def _layer(alias: str) -> int:
    """The number of the layer that a module lies in, -1 for none."""
    found = LAYER.search(f"{alias}.")
    return int(found[1]) if found else -1


def _tail(alias: str) -> str:
    """An alias without its part, which may be called as it likes."""
    return alias.partition(".")[2]
