"""What peft is given of a model's adapters: its configs and the tensors under its names."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mmdata.errors import SpecError
from mmtrain.adapters.install import adapters, parameter_names

BASE = "base_model.model."
Group = tuple[dict[str, Any], dict[str, torch.Tensor]]
Found = Sequence[tuple[str, Any]]


def groups(model: Any, state: Mapping[str, torch.Tensor]) -> tuple[dict[str, Group], list[str]]:
    """For each kind that peft has, by name: its config and tensors; and what it cannot be given, one line each.

    `state` is that of `adapter_state`; whatever in it belongs to no adapter was trained as it is, and goes along as
    peft's `modules_to_save`, with the first kind that can have them."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for name, _, adapter in adapters(model):
        kind = adapter.target.name
        if kind == "lora" and adapter.magnitude is not None:
            kind = "dora"
        found.setdefault(kind, []).append((name, adapter))
    makers = {"lora": _lora, "dora": _lora, "ia3": _ia3, "prefix": _prefix}
    result: dict[str, Group] = {}
    refused = []
    for kind, members in found.items():
        if kind not in makers:
            refused.append(f"{kind}: peft has no such adapters")
            continue
        try:
            result[kind] = makers[kind](model, members, state)
        except SpecError as error:
            refused.append(f"{kind}: {error}")
    if len(result) > 1 and not result.keys() <= {"lora", "dora"}:
        refused.append(f"{' and '.join(result)}: peft has each alone, and cannot hold them in a model together")
    also = sorted(set(state) - _adapter_tensors(model))
    if also and result:
        try:
            holder = next((kind for kind in result if kind != "prefix"), None)
            if holder is None:
                raise SpecError(f"{also[0]} is trained too, which peft cannot keep beside a prefix")
            config, tensors = result[holder]
            config["modules_to_save"] = _owners(model, also)
            for owner in config["modules_to_save"]:
                for name, parameter in model.get_submodule(owner).named_parameters():
                    full = f"{owner}.{name}"
                    tensors[BASE + full] = state[full] if full in state else parameter.detach().cpu().clone()
        except SpecError as error:
            result = {}
            refused.append(str(error))
    return result, refused


def _adapter_tensors(model: nn.Module) -> set[str]:
    prefixes = [f"{name}.{adapter.target.name}." for name, _, adapter in adapters(model)]
    return {name for name in model.state_dict() if any(name.startswith(prefix) for prefix in prefixes)}


def _owners(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The modules that hold parameters themselves. Raises SpecError where one is adapted too: peft takes a module
    either as adapted or as trained."""
    ours = parameter_names(model)
    owners = sorted({name.rpartition(".")[0] for name in names})
    for owner in owners:
        if any(name.startswith(f"{owner}.") for name in ours):
            raise SpecError(f"{owner} is trained and adapted at once, which peft cannot say")
    return owners


def _config(model: Any, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "peft_type": kind,
        "task_type": None,
        "base_model_name_or_path": getattr(model.config, "_name_or_path", None) or None,
        "inference_mode": True,
        **more,
    }


def _lora(model: Any, members: Found, state: Mapping[str, torch.Tensor]) -> Group:
    """All of LoRA, rsLoRA and PiSSA in one config: peft scales by alpha / r, so an alpha for each module says all. The
    fixed part of PiSSA's start becomes columns of its own, with which the rank is twice as much."""
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for name, adapter in members:
        key, own = BASE + name, f"{name}.lora."
        a, b = state[f"{own}a"], state[f"{own}b"]
        if f"{own}a0" in state:
            a, b = torch.cat([a, state[f"{own}a0"]]), torch.cat([b, -state[f"{own}b0"]], 1)
        tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a, b
        if adapter.magnitude is not None:
            tensors[f"{key}.lora_magnitude_vector"] = state[f"{own}magnitude"]
        ranks[name], alphas[name] = len(a), adapter.scaling * len(a)
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = _config(
        model,
        "LORA",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=members[0][1].dropout.p,
        use_dora=members[0][1].magnitude is not None,
        bias="none",
        target_modules=sorted(ranks),
        rank_pattern={re.escape(name): r for name, r in ranks.items() if r != rank},
        alpha_pattern={re.escape(name): a for name, a in alphas.items() if a != alpha},
        fan_in_fan_out=_turned(model, members),
    )
    return config, tensors


def _ia3(model: Any, members: Found, state: Mapping[str, torch.Tensor]) -> Group:
    inner = sorted(name for name, adapter in members if adapter.target.scales_input)
    tensors = {}
    for name, adapter in members:
        scale = state[f"{name}.ia3.scale"]
        tensors[f"{BASE}{name}.ia3_l"] = scale[None] if adapter.target.scales_input else scale[:, None]
    config = _config(
        model,
        "IA3",
        target_modules=sorted(name for name, _ in members),
        feedforward_modules=inner,
        fan_in_fan_out=_turned(model, members),
    )
    return config, {name: tensor.contiguous() for name, tensor in tensors.items()}


def _turned(model: nn.Module, members: Found) -> bool:
    kinds = {hasattr(model.get_submodule(name), "nx") for name, _ in members}
    if len(kinds) > 1:
        raise SpecError("GPT-2's layers and others in one model, which peft cannot say")
    return kinds.pop()


def _prefix(model: Any, members: Found, state: Mapping[str, torch.Tensor]) -> Group:
    """peft counts the prefix in when it numbers positions, and ours do not move. With rotary positions that is a
    rotation of the keys by the prefix's length: (R(p + n) q) . (R(n) k) = (R(p) q) . k."""
    decoder = model.get_decoder()
    total = int(decoder.config.num_hidden_layers)
    shapes = {state[f"{name}.prefix.keys"].shape for name, _ in members}
    if len(members) != total or len(shapes) > 1:
        raise SpecError(f"peft puts a prefix of one shape into all {total} layers; this one is in {len(members)}")
    length, heads, width = shapes.pop()
    pieces = []
    for name, _ in members:
        keys = _rotated(decoder, model.get_submodule(name), state[f"{name}.prefix.keys"])
        pieces += [keys, state[f"{name}.prefix.values"]]
    config = _config(
        model,
        "PREFIX_TUNING",
        num_virtual_tokens=length,
        token_dim=heads * width,
        num_attention_heads=heads,
        num_layers=total,
        num_transformer_submodules=1,
        prefix_projection=False,
    )
    config["task_type"] = "CAUSAL_LM"
    # [length, layers * 2, heads, width], as peft's `get_prompt` takes it apart
    return config, {"prompt_embeddings": torch.stack(pieces, 1).reshape(length, -1).contiguous()}


def _rotated(decoder: Any, layer: Any, keys: torch.Tensor) -> torch.Tensor:
    rotate = getattr(sys.modules[type(layer).__module__], "apply_rotary_pos_emb", None)
    rotary = getattr(decoder, "rotary_emb", None)
    if rotate is None or rotary is None:
        raise SpecError(f"the positions of {type(layer).__name__} are not rotary in the way that peft's can be met")
    place = torch.full((1, 1), len(keys), device=keys.device)
    cosine, sine = (x.to(keys.device, torch.float32) for x in rotary(keys, place))
    rope = getattr(decoder.config, "rope_parameters", None) or {}
    if cosine.shape != (1, 1, keys.shape[-1]) or "mrope_section" in rope:
        raise SpecError(f"the positions of {type(layer).__name__} have several axes, which peft does not count")
    length = torch.sqrt(cosine.square() + sine.square())  # YaRN's factor on scores; the queries have it already
    if not math.isclose(float(length.min()), float(length.max()), rel_tol=1e-4):
        raise SpecError(f"the positions of {type(layer).__name__} do not only rotate")
    turned = keys.transpose(0, 1)[None]
    return rotate(turned, turned, cosine / length, sine / length)[1][0].transpose(0, 1)
