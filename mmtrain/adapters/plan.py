"""Which adapters a model gets, with which ranks: the entries of the config, the rules, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from mmdata.errors import SpecError
from mmtrain.adapters.install import adapters, parameter_names
from mmtrain.adapters.spec import AdapterSpec, LoraSpec
from mmtrain.adapters.targets import Modules, Target, find, target
from mmtrain.components import aliases
from mmtrain.rules import Rule, lora_ranks


def plan(model: Any, entries: Sequence[AdapterSpec], rules: Sequence[Rule]) -> list[Target]:
    """The adapters that the entries ask for, with the ranks of rules (`lora_rank`) where there are any; without a LoRA
    among the entries, rules put one into each linear layer whose weight they match. Raises SpecError."""
    found = find(model, entries)
    ranks = lora_ranks(rules, list(aliases(model).values())) if any(r.lora_rank is not None for r in rules) else {}
    if ranks and not any(isinstance(entry, LoraSpec) for entry in entries):
        _no_experts(model, ranks)
        found += _by_rules(model, ranks)
    elif ranks:
        _reach(rules, found, model)
        found = with_ranks(found, {t.alias: ranks[f"{t.alias}.weight"] for t in found if f"{t.alias}.weight" in ranks})
    return found


def with_ranks(targets: Sequence[Target], ranks: Mapping[str, int]) -> list[Target]:
    """The targets with the ranks of LoRAs changed, by alias; those of rank 0 are left out. Raises SpecError for an odd
    rank where the start needs an even one."""
    changed = [replace(t, rank=ranks.get(t.alias, t.rank)) if isinstance(t.entry, LoraSpec) else t for t in targets]
    for t in changed:
        if isinstance(t.entry, LoraSpec) and t.entry.init == "orthogonal" and t.rank % 2:
            raise SpecError(f"adapters: {t.alias} is given rank {t.rank}, and an orthogonal start needs an even one")
    return [t for t in changed if t.rank or not isinstance(t.entry, LoraSpec)]


def _no_experts(model: Any, ranks: Mapping[str, int]) -> None:
    """Raises SpecError for a rank that rules give to experts without modules."""
    modules = Modules(model)
    given = [
        alias for alias, held in modules.experts.items() if any(ranks.get(f"{alias}.{name}", 0) > 0 for name in held)
    ]
    narrower = r"let the rule match less, say language\..*self_attn\..*, or give them rank 0 in another one"
    modules.refuse_experts(given, "parameters: lora_rank", "no LoRA reaches", narrower)


def _by_rules(model: Any, ranks: Mapping[str, int]) -> list[Target]:
    modules = Modules(model)
    found = []
    for alias in modules.linear(modules.by_alias):
        if rank := ranks.get(f"{alias}.weight", 0):
            entry = LoraSpec(kind="lora", match=".*", rank=rank)
            found.append(target(modules, alias, entry, rank=rank))
    if not found:
        raise SpecError("parameters: the rules with lora_rank match no weight of a linear layer")
    return found


def _reach(rules: Sequence[Rule], found: Sequence[Target], model: Any) -> None:
    weights = [f"{t.alias}.weight" for t in found if isinstance(t.entry, LoraSpec)]
    named = list(aliases(model).values())
    for at, rule in enumerate(rules):
        if rule.lora_rank is not None and not set(lora_ranks([rule], named)) & set(weights):
            raise SpecError(
                f"parameters.{at}.lora_rank: {rule.match!r} matches no weight with a LoRA; there is {weights[0]}"
            )


def table(model: nn.Module) -> str:
    """The adapters of a model, one line for each part and kind: modules, ranks, parameters and their share."""
    total = sum(parameter.numel() for name, parameter in model.named_parameters())
    groups: dict[tuple[str, str], list[tuple[Any, int]]] = {}
    for _, _, adapter in adapters(model):
        size = sum(parameter.numel() for parameter in adapter.parameters())
        kind = adapter.target.entry.kind
        groups.setdefault((adapter.target.alias.split(".")[0], kind), []).append((adapter.target, size))
    lines = []
    for (part, kind), members in groups.items():
        ranks = sorted({target.rank for target, _ in members})
        shown = "" if ranks == [0] else f", rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "")
        count = sum(size for _, size in members)
        lines.append(f"adapter {part}: {kind} in {len(members)} modules{shown}, {count:,} values")
    ours = parameter_names(model)
    if lines:
        count = sum(parameter.numel() for name, parameter in model.named_parameters() if name in ours)
        lines.append(f"adapter in all: {count:,} values, {count / total:.2%} of the model")
    return "\n".join(lines)
