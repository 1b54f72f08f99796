"""Parts of models by name, over the families of the installed transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
)

from mmtrain.components import aliases, components, modules

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 200,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
QWEN: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "depth": 2, "num_heads": 4, "out_hidden_size": 32}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2]}


def make(name: str) -> Any:
    match name:
        case "llama":
            return LlamaForCausalLM(LlamaConfig(**TEXT))
        case "llava":
            config = LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**TEXT))
            return LlavaForConditionalGeneration(config)
        case "idefics3":
            config = Idefics3Config(vision_config=VISION, text_config=LlamaConfig(**TEXT), scale_factor=2)
            return Idefics3ForConditionalGeneration(config)
        case "internvl":
            vision = {**VISION, "image_size": [28, 28], "patch_size": [14, 14]}
            return InternVLForConditionalGeneration(
                InternVLConfig(vision_config=vision, text_config=Qwen2Config(**TEXT))
            )
        case "gemma3":
            text = Gemma3TextConfig(**TEXT, head_dim=8)
            return Gemma3ForConditionalGeneration(
                Gemma3Config(vision_config=SiglipVisionConfig(**VISION), text_config=text, mm_tokens_per_image=1)
            )
        case "qwen2_5_vl":
            return Qwen2_5_VLForConditionalGeneration(
                Qwen2_5_VLConfig(
                    vision_config={**QWEN, "fullatt_block_indexes": [1]}, text_config={**TEXT, "rope_scaling": MROPE}
                )
            )
        case "qwen3_vl":
            vision = {**QWEN, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
            text = {**TEXT, "head_dim": 8, "rope_scaling": MROPE}
            return Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, text_config=text))
        case _:
            audio = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
            return Qwen2AudioForConditionalGeneration(
                Qwen2AudioConfig(audio_config=audio, text_config=Qwen2Config(**TEXT))
            )


EXPECTED = {
    "llama": {"language", "head"},
    "llava": {"vision", "connector", "language", "head"},
    "idefics3": {"vision", "connector", "language", "head"},
    "internvl": {"vision", "connector", "language"},  # the head shares the embeddings' weights
    "gemma3": {"vision", "connector", "language"},
    "qwen2_5_vl": {"vision", "connector", "language", "head"},
    "qwen3_vl": {"vision", "connector", "language", "head"},
    "qwen2_audio": {"audio", "connector", "language", "head"},
}
CONNECTORS = {
    "llava": "multi_modal_projector",
    "idefics3": "connector",
    "internvl": "multi_modal_projector",
    "gemma3": "multi_modal_projector",
    "qwen2_5_vl": "visual.merger",
    "qwen3_vl": "visual.(merger|deepstack)",
    "qwen2_audio": "multi_modal_projector",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_parameter_has_its_part(name: str) -> None:
    model = make(name)
    named = aliases(model)
    assert set(named) == {full for full, _ in model.named_parameters()}
    assert {alias.split(".")[0] for alias in named.values()} == EXPECTED[name]
    for full, alias in named.items():
        part = alias.split(".")[0]
        holder = CONNECTORS.get(name, "no connector").split(".")
        is_connector = any(word in full for word in holder[-1].strip("()").split("|"))
        assert (part == "connector") == is_connector, (full, alias)
        assert (part == "language") == ("language_model" in full or "text_model" in full or name == "llama") or (
            part == "head" and full.startswith("lm_head")
        ), (full, alias)


@pytest.mark.parametrize("name", EXPECTED)
def test_parts_can_be_put_to_rest(name: str) -> None:
    """Frozen parts in `eval()`: their dropout and batch statistics stand still, and no other's do."""
    model = make(name).train()
    part = next(part for part in ("vision", "audio", "language") if part in components(model))
    for module in modules(model, part):
        module.eval()
    for full, alias in aliases(model).items():
        owner: torch.nn.Module = model.get_submodule(full.rpartition(".")[0])
        assert owner.training == (alias.split(".")[0] != part), full
