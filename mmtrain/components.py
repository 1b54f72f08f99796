"""What a model's parts are called, whichever family it is of: vision, audio, connector, language, head, and so on."""

from __future__ import annotations

import re
from typing import Any

import torch

_INNER = {
    "vision": re.compile(r"(merger|deepstack_merger_list)(\.|$)"),
    "audio": re.compile(r"proj(\.|$)"),
}
"""The towers of Qwen-VL and Qwen-Omni hold their connectors; they are named apart from them."""


def components(model: Any) -> dict[str, str]:
    """The module of each part, by alias, for a Hugging Face model with a language head; the connector is all else.

    >>> import transformers
    >>> small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> components(transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=9, **small)))
    {'language': 'model', 'head': 'lm_head'}
    """
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, str] = {}
    for alias, modality in (("vision", "image"), ("audio", "audio")):
        tower = model.get_encoder(modality=modality)
        if tower is not model and tower is not model.get_decoder():
            found[alias] = names[id(tower)]
    for alias in ("fusion", "heads"):
        part = getattr(getattr(model, "base_model", model), alias, None)
        if part is not None and id(part) in names:
            found[alias] = names[id(part)]
    found["language"] = names[id(model.get_decoder())]
    head = model.get_output_embeddings()
    if head is not None:
        found["head"] = names[id(head)]
    return found


def aliases(model: Any) -> dict[str, str]:
    """The alias of every parameter, by its name in the model: `model.vision_tower.post_layernorm.bias` is
    `vision.post_layernorm.bias`. What lies in no tower, decoder or head is `connector.…`, as are the mergers of
    Qwen-VL's towers and the last layer of Qwen-Omni's ear; a head that shares the embeddings' weights is those."""
    parts = components(model)
    result = {}
    for name, _ in model.named_parameters():
        result[name] = _alias(name, parts)
    twice = len(result) - len(set(result.values()))
    assert not twice, f"{twice} parameters share an alias"
    return result


def module_aliases(model: Any) -> dict[str, str]:
    """The alias of every module, by its name in the model, as `aliases` has those of parameters."""
    parts = components(model)
    return {name: _alias(f"{name}.weight", parts).removesuffix(".weight") for name, _ in model.named_modules() if name}


def _alias(name: str, parts: dict[str, str]) -> str:
    # The longest prefix wins: a language model may be the whole `model`, towers and all.
    for alias, prefix in sorted(parts.items(), key=lambda item: -len(item[1])):
        rest = name.removeprefix(f"{prefix}.")
        if rest != name:
            if alias in _INNER and _INNER[alias].match(rest):
                return f"connector.{rest}"
            return f"{alias}.{rest}"
    return f"connector.{name.removeprefix('model.')}"


def modules(model: Any, alias: str) -> list[torch.nn.Module]:
    """The outermost modules that hold parameters of one part only, so that it can be put into `eval()`."""
    named = aliases(model)
    mine = {name for name, other in named.items() if other.split(".")[0] == alias}
    found: list[tuple[str, torch.nn.Module]] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer, _ in found):
            continue
        inside = [full for full in named if full.startswith(f"{name}.")] if name else list(named)
        if inside and mine.issuperset(inside):
            found.append((name, module))
    return [module for _, module in found]
