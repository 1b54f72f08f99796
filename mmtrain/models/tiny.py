"""A small LLaVA from numbers, with random weights."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from mmtrain.models.spec import TinySpec, TowerSpec

IMAGE = "<image>"
FFN_RATIO = 3
MAX_POSITIONS = 4096


def build(spec: TinySpec, tokenizer: PreTrainedTokenizerBase) -> LlavaForConditionalGeneration:
    """A LLaVA with random float32 weights from torch's generator."""
    vision = CLIPVisionConfig(**_tower(spec.vision), image_size=spec.image_size, patch_size=spec.patch_size)
    text = LlamaConfig(
        **_tower(spec.language),
        vocab_size=len(tokenizer),
        num_key_value_heads=spec.language.heads,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    image_id: Any = tokenizer.convert_tokens_to_ids(IMAGE)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    return LlavaForConditionalGeneration(config)


def _tower(spec: TowerSpec) -> dict[str, Any]:
    return {
        "hidden_size": spec.hidden,
        "intermediate_size": FFN_RATIO * spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
    }
