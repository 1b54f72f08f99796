"""Estimates of memory beside what torch holds: weights, gradients and moments exactly, activations within a fifth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from mmtrain import certificate, sft
from mmtrain.components import aliases
from mmtrain.estimate import activations, memory
from mmtrain.objective import losses, target_weights
from mmtrain.optim import OptimSpec, optimizer
from mmtrain.rules import Rule, resolve
from mmtrain.spec import TrainSpec
from tests.mmtrain.test_sft import arguments

TOKENS = 192
SPEC = TrainSpec.model_validate({"data": {"dataset": "x"}, "output": "y"})


def decoder(hidden: int, wide: int, layers: int, heads: int, keys: int) -> Any:
    sizes = {"hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers, "vocab_size": 300}
    more = {"num_attention_heads": heads, "num_key_value_heads": keys, "head_dim": hidden // heads}
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, **more)).train()
    certificate.adopt(model, "varlen")
    return model


def batch(targets: int) -> dict[str, Any]:
    ids = torch.randint(0, 300, (1, TOKENS))
    labels = torch.where(torch.arange(TOKENS)[None] < TOKENS - targets, -100, ids)
    borders = torch.tensor([0, TOKENS], dtype=torch.int32)
    return {
        "input_ids": ids,
        "labels": labels,
        "position_ids": torch.arange(TOKENS)[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": TOKENS,
        "max_length_k": TOKENS,
        "use_cache": False,
        "loss_weights": torch.ones(1, TOKENS),
        "keys": ["a"],
    }


def kept(model: Any, given: dict[str, Any]) -> int:
    """Bytes that the forward pass saves for the backward pass: each storage once, without weights and inputs."""
    held = [*model.parameters(), *model.buffers(), *(v for v in given.values() if torch.is_tensor(v))]
    known = {tensor.untyped_storage().data_ptr() for tensor in held}
    seen: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # or a freed storage would lend its address to another

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses(model, given, target_weights(given, "token"), "varlen")
    return sum(seen.values())


@pytest.mark.parametrize(
    ("shape", "targets"),
    [((64, 192, 2, 4, 4), 8), ((128, 256, 3, 4, 2), 8), ((64, 64, 4, 4, 1), 64), ((32, 256, 2, 2, 2), 128)],
)
def test_activations(shape: tuple[int, int, int, int, int], targets: int) -> None:
    torch.manual_seed(0)
    model = decoder(*shape)
    assert activations(SPEC, model, tokens=TOKENS, targets=targets) == pytest.approx(
        kept(model, batch(targets)), rel=0.2
    )


def test_weights_gradients_and_moments_are_exact() -> None:
    model = decoder(64, 192, 2, 4, 4)
    settings = resolve([Rule(match="language.layers.0.*", train=False)], list(aliases(model).values()))
    optim = optimizer(model, OptimSpec(), settings)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(settings[aliases(model)[name]].train)
    losses(model, batch(8), target_weights(batch(8), "token"), "varlen")[0].backward()
    optim.step()
    found = memory(SPEC, model, settings, tokens=TOKENS)
    assert found.weights == sum(p.nbytes for p in model.parameters())
    assert found.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    moments = [v for state in optim.state.values() for n, v in state.items() if n.startswith("exp_avg")]
    assert found.optimizer == sum(each.nbytes for each in moments)
    assert found.total(4) == -(-(found.weights + found.gradients + found.optimizer) // 4) + found.activations


def test_layers_that_run_again_keep_less() -> None:
    model = decoder(64, 192, 8, 4, 4)
    again = [SPEC.model_copy(update={"activation_checkpointing": each}) for each in ("none", 2, "full")]
    none, some, full = (activations(spec, model, tokens=TOKENS) for spec in again)
    assert full < some < none


def test_a_dry_run_tells_memory_and_operations(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft.main(arguments(folder, tmp_path / "run", "--dry-run")) == 0
    shown = capsys.readouterr().out
    assert "memory weights " in shown
    assert "sharded over 2" in shown
    assert "TFLOP in the first step" in shown
    assert '"dataset":' in shown  # the whole config, as it was resolved
    assert not (tmp_path / "run").exists()
