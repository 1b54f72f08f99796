"""The model: a small LLaVA from numbers, and its loss on a packed batch."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from mmdata.labels import IGNORE
from mmtrain.certificate import Strategy, prepared
from mmtrain.losses import Norm, cross_entropy_sum, normed
from mmtrain.spec import ModelSpec, TowerSpec
from mmtrain.tokenizer import IMAGE

FFN_RATIO = 3
MAX_POSITIONS = 4096


def build(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> LlavaForConditionalGeneration:
    """A LLaVA with random float32 weights, the same for the same spec, vocabulary and seed."""
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaForConditionalGeneration(config)


def loss_sum(
    model: Any, batch: dict[str, Any], norm: Norm = "token", strategy: Strategy = "varlen"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over the batch's targets of weight * cross-entropy, and the sum of the weights; both float32 scalars.

    `strategy` says how the model is told of borders, as its certificate has it."""
    inputs = prepared(batch, strategy, model.config, model.dtype)
    labels = inputs.pop("labels")[0]
    weights = target_weights(batch, norm)
    hidden = model.base_model(**inputs).last_hidden_state[0]
    return cross_entropy_sum(hidden, model.get_output_embeddings(), labels, weights), weights.sum()


def target_weights(batch: dict[str, Any], norm: Norm) -> torch.Tensor:
    """What each label of a batch weighs, float32 [T]: 0 where there is none."""
    labels = batch["labels"][0]
    weights = normed(batch["loss_weights"][0], labels, batch["cu_seq_lens_q"], norm)
    return torch.where(labels == IGNORE, 0, weights)


def _tower(spec: TowerSpec) -> dict[str, Any]:
    return {
        "hidden_size": spec.hidden,
        "intermediate_size": FFN_RATIO * spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
    }
