"""The packing certificate: models that keep samples apart pass, by the cheapest way they can; others fail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    SiglipVisionConfig,
)

from mmdata.collate import PackedCollator
from mmdata.errors import SpecError
from mmdata.types import Packed
from mmtrain import attention
from mmtrain.certificate import Certificate, cached, certify, prepared

IMAGE = 5
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}


def sample(seed: int, *, words: int, images: int = 0, types: bool = False) -> Packed:
    """One segment: a token, the images (4 placeholders each), words of which the second half is trained."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate([[1], np.full(4 * images, IMAGE), rng.integers(10, 64, words)]).astype(np.int32)
    labels = np.where(np.arange(len(ids)) >= len(ids) - (words + 1) // 2, ids, -100).astype(np.int64)
    labels[0] = -100
    pixels = rng.normal(size=(images, 3, 28, 28)).astype(np.float32)
    return Packed(
        input_ids=ids,
        labels=labels,
        loss_weights=(labels != -100).astype(np.float32),
        position_ids=np.arange(len(ids), dtype=np.int64),
        cu_seqlens=np.array([0, len(ids)], np.int32),
        media={"pixel_values": pixels} if images else {},
        joins={"pixel_values": "concat"} if images else {},
        token_arrays={"token_type_ids": (ids == IMAGE).astype(np.int64)} if types else {},
        keys=(str(seed),),
    )


def collate(packs: Sequence[Packed]) -> dict[str, Any]:
    return PackedCollator()(packs)


TEXTS = [sample(0, words=9), sample(1, words=4), sample(2, words=13)]
PICTURES = [sample(0, words=9, images=1), sample(1, words=5, images=2), sample(2, words=8, images=1)]


def test_a_llava_is_packed_by_the_kernel() -> None:
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).train()
    found = certify(model, PICTURES, collate)
    assert found.strategy == "varlen", str(found)
    assert model.config.get_text_config()._attn_implementation == attention.NAME
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert Certificate.from_json(found.to_json()) == found
    assert "packed by varlen" in str(found)


def test_sliding_windows_stay_inside_segments() -> None:
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**TEXT, sliding_window=3))
    assert certify(model, TEXTS, collate).strategy == "varlen"


def test_gemma_3_needs_masks_for_its_images() -> None:
    """A varlen kernel would take from image tokens what comes after them: the certificate sees that and packs by one
    mask for full and one for sliding layers."""
    torch.manual_seed(0)
    text = Gemma3TextConfig(
        **TEXT,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        tie_word_embeddings=True,
    )
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**VISION), text_config=text, mm_tokens_per_image=4, image_token_index=IMAGE
    )
    config.image_token_id = IMAGE
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)  # zeros see nothing
    samples = [sample(seed, words=9 + seed, images=1 + seed % 2, types=True) for seed in range(3)]
    found = certify(model, samples, collate)
    first, second = found.checks
    assert first.strategy == "varlen"
    assert first.loss > 1e-4, str(found)
    assert second.holds(1e-5), str(found)
    assert found.strategy == "masks"


class _Deaf(LlamaForCausalLM):
    """A model that loses the borders on their way, as many do."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        inner = self.model.forward

        def forward(**inputs: Any) -> Any:
            kept = {
                name: inputs[name]
                for name in ("input_ids", "position_ids", "use_cache", "attention_mask")
                if name in inputs
            }
            return inner(**kept)

        self.model.forward = forward


def test_a_model_that_loses_borders_is_packed_by_masks() -> None:
    torch.manual_seed(0)
    found = certify(_Deaf(LlamaConfig(**TEXT)), TEXTS, collate)
    assert found.checks[0].leaks > 0, str(found)
    assert found.strategy == "masks", str(found)


def test_a_model_that_cannot_be_packed_is_told_so() -> None:
    """BLOOM counts its positions over the whole row, whatever it is told."""
    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=64))
    before = model.config._attn_implementation
    found = certify(model, TEXTS, collate)
    assert found.strategy == "single", str(found)
    assert "must not be packed" in str(found)
    assert model.config._attn_implementation == before


def test_two_samples_with_targets_are_needed() -> None:
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    with pytest.raises(SpecError, match="two samples"):
        certify(model, TEXTS[:1], collate)
    with pytest.raises(SpecError, match="something to train on"):
        certify(model, [sample(0, words=0), sample(1, words=0)], collate)


def test_a_certificate_is_kept_for_such_a_model(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    path, none = cached(model, tmp_path)
    assert none is None
    found = certify(model, TEXTS, collate)
    path.write_text(found.to_json())
    assert cached(LlamaForCausalLM(LlamaConfig(**TEXT)), tmp_path) == (path, found)
    assert cached(LlamaForCausalLM(LlamaConfig(**TEXT | {"num_hidden_layers": 1})), tmp_path)[1] is None
    assert cached(model.double(), tmp_path)[1] is None
    path.write_text("{")
    assert cached(LlamaForCausalLM(LlamaConfig(**TEXT)), tmp_path) == (path, None)


def test_single_rows_only_where_rows_may_not_be_shared() -> None:
    config = LlamaConfig(**TEXT)
    assert "cu_seq_lens_q" not in prepared(collate(TEXTS[:1]), "single", config, torch.float32)
    with pytest.raises(ValueError, match="3 segments"):
        prepared(collate(TEXTS), "single", config, torch.float32)


def test_masks_replace_the_borders() -> None:
    batch = collate(TEXTS)
    inputs = prepared(batch, "masks", LlamaConfig(**TEXT), torch.float32)
    assert not {"cu_seq_lens_q", "max_length_q", "seq_idx"} & set(inputs)
    total = batch["input_ids"].shape[1]
    assert inputs["attention_mask"].shape == (1, 1, total, total)
    assert "cu_seq_lens_q" in batch
