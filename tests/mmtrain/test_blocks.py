"""Layers that are run again, or compiled, compute what they did; dropout that could not be keyed by pack is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mmdata.errors import SpecError
from mmtrain import sft
from mmtrain.blocks import chance, check_chance, compile_layers, layers, recompute
from tests.mmtrain.test_sft import arguments, same_weights, trace

TOWER: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}


def llava(dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    text = transformers.LlamaConfig(**TOWER, vocab_size=32, attention_dropout=dropout)
    vision = transformers.CLIPVisionConfig(**{**TOWER, "num_hidden_layers": 3}, image_size=8, patch_size=4)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=31, vision_feature_layer=-1
    )
    return transformers.LlavaForConditionalGeneration(config).train()


def run(model: Any) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss, gradients, and the bytes that the forward pass leaves for the backward pass."""
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    torch.manual_seed(1)
    ids = torch.tensor([[31, 31, 31, 31, *range(1, 20)]])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=ids, pixel_values=torch.ones(1, 3, 8, 8), labels=ids, use_cache=False).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return float(loss), gradients, kept


def test_layers_are_those_of_towers_and_decoder() -> None:
    found = layers(llava())
    assert {alias: len(members) for alias, members in found.items()} == {"vision": 3, "language": 4}
    assert {type(member).__name__ for member in found["language"]} == {"LlamaDecoderLayer"}


@pytest.mark.parametrize(("which", "count"), [("full", 7), (2, 4), (1, 7)])
def test_recomputing_changes_no_bit_and_keeps_less(which: Any, count: int) -> None:
    """With dropout: the second run draws what the first did."""
    expected = run(llava(dropout=0.3))
    model = llava(dropout=0.3)
    names = [name for name, _ in model.named_parameters()]
    assert recompute(model, which) == count
    assert [name for name, _ in model.named_parameters()] == names
    found = run(model)
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    assert all(torch.equal(found[1][name], expected[1][name]) for name in expected[1])
    assert found[2] < 0.75 * expected[2]


def test_a_copy_runs_its_own_layers_again() -> None:
    model = llava()
    recompute(model, "full")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    expected = run(other.eval())  # which recomputes nothing
    assert run(other.train())[0] == expected[0] != run(model)[0]
    assert run(other)[1].keys() == expected[1].keys()


def test_nothing_is_recomputed_where_nothing_is_kept() -> None:
    model = llava()
    recompute(model, "full")
    calls = 0
    inner = model.get_decoder().layers[0].mlp

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    inner.register_forward_hook(count)
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)
    assert calls == 1
    assert recompute(llava(), "none") == 0


def test_a_model_without_layers_is_refused() -> None:
    class Bare(torch.nn.Module):
        def get_encoder(self, modality: str) -> Any:
            return self

        def get_decoder(self) -> Any:
            return self

        def get_output_embeddings(self) -> Any:
            return None

    with pytest.raises(SpecError, match="activation_checkpointing: Bare has no list of layers"):
        recompute(Bare(), "full")
    with pytest.raises(SpecError, match="compile: Bare has no list of layers"):
        compile_layers(Bare())


def test_chance_needs_a_pass_for_each_pack() -> None:
    assert chance(llava()) == []
    found = chance(llava(dropout=0.1))
    assert len(found) == 4
    assert all(name.endswith("self_attn") for name in found)
    check_chance(llava(dropout=0.1), 1)
    check_chance(llava(), 4)
    with pytest.raises(SpecError, match=r"self_attn \(and 3 more\) drop at random"):
        check_chance(llava(dropout=0.1), 2)


def test_the_command_recomputes_without_a_change(folder: Path, tmp_path: Path) -> None:
    """It may be switched on in the middle of a run: no number depends on it."""
    assert sft.main(arguments(folder, tmp_path / "plain", "--set", "steps=3")) == 0
    assert sft.main(arguments(folder, tmp_path / "less", "--set", "steps=3", "activation_checkpointing=2")) == 0
    assert trace(tmp_path / "less") == trace(tmp_path / "plain")
    assert same_weights(tmp_path / "less", tmp_path / "plain")


@pytest.mark.soak
def test_compiled_layers_train_as_others_do(folder: Path, tmp_path: Path) -> None:
    """One layer of each kind and two steps: the compiler takes a minute for these."""
    less = ["--set", "steps=2", "model.vision.layers=1", "model.language.layers=1"]
    assert sft.main(arguments(folder, tmp_path / "plain", *less)) == 0
    assert sft.main(arguments(folder, tmp_path / "fast", *less, "compile=true")) == 0
    for one, other in zip(trace(tmp_path / "plain"), trace(tmp_path / "fast"), strict=True):
        assert one["keys_crc32c"] == other["keys_crc32c"]
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
