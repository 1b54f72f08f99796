"""Small models, and adapters in them that do something."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from mmtrain import adapters
from mmtrain.adapters.export import ENTRY
from mmtrain.rules import Rule

VOCABULARY = 61
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": True,
}


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    return shaken(LlamaForCausalLM(LlamaConfig(**TEXT, **more)).eval())


def qwen3() -> Any:
    torch.manual_seed(0)
    return shaken(Qwen3ForCausalLM(Qwen3Config(**TEXT, head_dim=8)).eval())


def gpt2() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return shaken(GPT2LMHeadModel(config).eval())


@torch.no_grad()
def shaken(model: Any) -> Any:
    """Fresh models are nearly linear and have no biases; these are neither."""
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


def put(model: Any, *entries: dict[str, Any], rules: tuple[Rule, ...] = (), move: float = 0.3) -> Any:
    """Adapters in a model, moved from where they begin by normal values times `move`."""
    targets = adapters.plan(model, [ENTRY.validate_python(entry) for entry in entries], rules)
    adapters.install(model, targets, seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for _, _, adapter in adapters.adapters(model):
            for parameter in adapter.parameters():
                parameter.add_(torch.randn(parameter.shape) * move)
    return model


def ids(length: int = 11, seed: int = 3) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: Any, **inputs: Any) -> torch.Tensor:
    result: torch.Tensor = model(**(inputs or {"input_ids": ids()}), use_cache=False).logits
    return result
