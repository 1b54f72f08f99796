"""The packing certificate: models that keep samples apart pass, by the cheapest way they can; others fail."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from mmdata.collate import PackedCollator
from mmdata.errors import SpecError
from mmdata.families._family import expand, plan_media, views
from mmdata.stream.assemble import assemble
from mmdata.templates import MEDIUM, Encoded
from mmdata.types import Packed, Span
from mmtrain import adapters, attention
from mmtrain.adapters import PrefixSpec
from mmtrain.certificate import Certificate, Check, cached, certify, chosen, prepared
from tests.families.processors import PHOTOS, image
from tests.mmtrain.tiny_models import ALSO, EXPERTS, FAMILIES, MASKED, family, make, samples, text

TEXT = text()
TEXTS = samples("llama")


def collate(packs: Sequence[Packed]) -> dict[str, Any]:
    return PackedCollator()(packs)


@pytest.mark.parametrize("name", [*FAMILIES, *ALSO, *EXPERTS])
def test_families_are_packed_by_the_kernel(name: str) -> None:
    model = make(name).train()
    found = certify(model, samples(name), collate)
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


def test_windows_that_a_kernel_would_lose_are_seen_however_long_they_are() -> None:
    """Phi-3.5-MoE says its window to its masks alone, and a kernel takes none. It is left as it was."""
    torch.manual_seed(0)
    model = PhimoeForCausalLM(PhimoeConfig(**TEXT, sliding_window=2047, num_local_experts=4))
    found = certify(model, TEXTS, collate)
    assert found.checks[0].loss > 1e-4, str(found)
    assert found.strategy == "masks", str(found)
    assert model.config.sliding_window == 2047
    kept = Phi3ForCausalLM(Phi3Config(**TEXT, sliding_window=2047))
    assert certify(kept, TEXTS, collate).strategy == "varlen"
    held = Gemma3ForCausalLM(Gemma3TextConfig(**TEXT, sliding_window=2047, layer_types=["sliding_attention"] * 2))
    assert certify(held, TEXTS, collate).strategy == "varlen"
    assert {layer.self_attn.sliding_window for layer in held.model.layers} == {held.config.sliding_window} == {2047}


@pytest.mark.parametrize(
    ("made", "config"),
    [
        (BertLMHeadModel, BertConfig(**TEXT)),
        (LlamaForCausalLM, LlamaConfig(**TEXT, is_causal=False)),
        (XLNetLMHeadModel, XLNetConfig(vocab_size=TEXT["vocab_size"], d_model=32, n_layer=2, n_head=4, d_inner=48)),
    ],
)
def test_a_model_that_looks_ahead_is_no_language_model(made: type[Any], config: Any) -> None:
    """Packed and alone it has the same loss, and not a bit of a sample moves with another."""
    torch.manual_seed(0)
    model = made(config).train()
    found = certify(model, TEXTS, collate)
    assert (found.ahead, found.strategy, found.checks) == (True, "single", ())
    assert re.search(r"looks ahead, and must not be trained .* `is_decoder: true`", str(found))
    assert Certificate.from_json(found.to_json()) == found
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_was_told_to_look_back_is_one() -> None:
    torch.manual_seed(0)
    found = certify(BertLMHeadModel(BertConfig(**TEXT, is_decoder=True)), TEXTS, collate)
    assert not found.ahead
    assert found.strategy != "single", str(found)


@pytest.mark.parametrize("name", MASKED)
def test_what_looks_both_ways_needs_masks(name: str) -> None:
    """A varlen kernel would take from the tokens of a picture, or of a prefix, what comes after them: the certificate
    sees that and packs by masks, one for full and one for sliding layers."""
    found = certify(make(name), samples(name), collate)
    first, second = found.checks
    assert first.strategy == "varlen"
    assert max(first.loss, first.gradient) > 1e-3, str(found)
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


class _Smears(torch.autograd.Function):
    """Changes nothing, and has a thousandth of each token's gradient in the one before, as no forward pass shows."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient + 1e-6 * gradient.roll(-1, dims=1)


def test_a_backward_pass_that_loses_borders_is_found() -> None:
    """Though loss and hidden states are right to the bit, and all gradients to a millionth."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    model.model.layers[0].register_forward_hook(lambda module, given, made: _Smears.apply(made))
    found = certify(model, TEXTS, collate)
    assert found.strategy == "single", str(found)
    for check in found.checks:
        assert max(check.loss, check.gradient) < 1e-5, str(found)
        assert check.leaks > 0, str(found)


def test_frozen_embeddings_that_are_written_into_are_checked_as_well() -> None:
    """As models do that put features there."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TEXT)).requires_grad_(False)
    model.lm_head.requires_grad_(True)
    model.model.layers[0].register_forward_pre_hook(lambda module, given: (given[0].mul_(2), *given[1:]))
    found = certify(model, TEXTS, collate)
    assert found.strategy == "varlen", str(found)


def test_a_model_that_loses_borders_is_packed_by_masks() -> None:
    torch.manual_seed(0)
    found = certify(_Deaf(LlamaConfig(**TEXT)), TEXTS, collate)
    assert found.checks[0].leaks > 0, str(found)
    assert found.strategy == "masks", str(found)


@pytest.mark.parametrize(
    ("name", "reason"), [("bloom", "ALiBi positions"), ("lfm2_vl", "layers of conv run over borders")]
)
def test_a_model_that_cannot_be_packed_is_told_so(name: str, reason: str) -> None:
    """Positions that count over the whole row whatever they are told, and convolutions (pitfall 35)."""
    model = make(name)
    before = model.config._attn_implementation
    found = certify(model, samples(name), collate)
    assert found.strategy == "single", str(found)
    assert re.search(f"must not be packed, for .*{reason}", str(found))
    assert all(check.error or check.leaks or check.loss > 1e-5 for check in found.checks)
    assert Certificate.from_json(found.to_json()) == found
    assert model.config._attn_implementation == before


def test_two_samples_with_targets_are_needed() -> None:
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    with pytest.raises(SpecError, match="two samples"):
        certify(model, TEXTS[:1], collate)
    with pytest.raises(SpecError, match="something to train on"):
        certify(model, [replace(pack, labels=pack.labels * 0 - 100) for pack in TEXTS], collate)


def test_a_certificate_is_kept_for_such_a_model(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    path, none = cached(model, tmp_path)
    assert none is None
    found = certify(model, TEXTS, collate)
    path.write_text(found.to_json())
    assert cached(LlamaForCausalLM(LlamaConfig(**TEXT)), tmp_path) == (path, found)
    assert cached(LlamaForCausalLM(LlamaConfig(**TEXT | {"num_hidden_layers": 1})), tmp_path)[1] is None
    assert cached(model.double(), tmp_path)[1] is None
    assert cached(model, tmp_path, ["image"])[1] is None
    path.write_text("{")
    assert cached(LlamaForCausalLM(LlamaConfig(**TEXT)), tmp_path) == (path, None)


def test_texts_say_nothing_of_pictures(tmp_path: Path) -> None:
    """Gemma 3 packs texts by the kernel and pictures only by masks: a certificate that saw none is none for them."""
    model = make("gemma3")
    texts = [sample for sample in samples("gemma3") if not sample.slots]
    found = certify(model, [*texts, replace(texts[0], keys=("again",))], collate)
    assert (found.strategy, found.shown) == ("varlen", ())
    path, _ = cached(model, tmp_path)
    path.write_text(found.to_json())
    assert cached(model, tmp_path, ["image"]) == (path, None)
    again = certify(model, chosen([*texts * 9, *samples("gemma3")], ["image"], count=2), collate)
    assert (again.strategy, again.shown) == ("masks", ("image",))
    path.write_text(again.to_json())
    assert cached(model, tmp_path, ["image"]) == (path, again) == cached(model, tmp_path)


def test_a_prefix_takes_no_sight_from_pictures() -> None:
    """Its attention makes no masks that look both ways, so the samples alone have to be given theirs."""
    prefix: Any = [PrefixSpec(kind="prefix", component="language", length=3)]
    model = make("paligemma")
    adapters.install(model, adapters.plan(model, prefix, []), seed=0)
    found = certify(model, samples("paligemma"), collate)
    assert found.strategy == "masks", str(found)
    assert max(found.checks[0].loss, found.checks[0].gradient) > 1e-3
    convolved = make("lfm2_vl")
    adapters.install(convolved, adapters.plan(convolved, prefix, []), seed=0)
    with pytest.raises(SpecError, match=r"kind prefix does not fit Lfm2Vl.*layers of conv"):
        certify(convolved, samples("lfm2_vl"), collate)


def test_what_follows_an_answer_does_not_show_it_to_the_prompt(tmp_path: Path) -> None:
    """The end of a template, or another question: in PaliGemma's prompt, which sees all that is no answer."""
    ours, (facts, pixels) = family("paligemma"), image(PHOTOS[0])
    planned = plan_media(ours, [facts])
    encoded = Encoded(
        ids=[MEDIUM, *range(9, 30)],
        spans=tuple(Span(start, start + 4, 1.0, "response", True) for start in (6, 15)),
        media=(facts,),
    )
    segment = expand(ours, encoded, planned)
    arrays = [[views(ours, [facts])[0].realize(pixels, planned[0]).numpy()]]
    pack = assemble([segment], [planned], arrays, ours, keys=("a",))
    first = int((pack.labels != -100).argmax())
    assert pack.token_arrays["token_type_ids"].tolist() == [0] * first + [1] * (len(pack.input_ids) - first)
    model = make("paligemma")
    found = certify(model, [pack, *samples("paligemma")], collate)
    assert (found.ahead, found.strategy) == (False, "masks")
    path, _ = cached(model, tmp_path)
    path.write_text(replace(found, strategy="single", ahead=True).to_json())
    assert cached(model, tmp_path) == (path, None)


def test_samples_are_chosen_for_what_they_show() -> None:
    several = samples("qwen2_5_omni")
    kinds = [{slot.kind for slot in sample.slots} for sample in several]
    assert kinds == [{"image"}, {"image"}, {"audio"}, {"audio"}, {"video"}, set()]
    taken = chosen(several, ["image", "audio", "video"], count=2)
    assert [sample.keys for sample in taken] == [several[at].keys for at in (0, 1, 2, 4)]
    assert chosen(several, [], count=2) == several[:2]
    assert len(chosen(several, ["smell"], count=3)) == 3
    assert len(chosen(several * 50, ["video"], count=1, most=4)) == 1


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


def test_dropout_in_attention_is_packed_by_masks() -> None:
    """Varlen kernels have none, which only training shows; the check draws nothing and moves no batch statistics."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TEXT, attention_dropout=0.2)).train()
    model.model.layers[0].mlp.act_fn = torch.nn.Sequential(torch.nn.SiLU(), _Statistics(TEXT["intermediate_size"]))
    before = torch.get_rng_state()
    found = certify(model, TEXTS, collate)
    assert found.strategy == "masks", str(found)
    assert found.checks[0].error == "varlen kernels have no dropout; `attention_dropout: 0` in config.json allows them"
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert model.model.layers[0].mlp.act_fn[1].num_batches_tracked == 0
    model.config.attention_dropout = 0.0
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.0
    assert certify(model, TEXTS, collate).strategy == "varlen"


class _Statistics(torch.nn.BatchNorm1d):
    """Of tokens [1, T, C]."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden[0])[None]


def test_rounding_is_allowed_in_gradients_and_leaks_nowhere() -> None:
    """What SmolLM2 with DINOv2 was once refused for; and what no rounding makes."""
    rounded = Check(strategy="varlen", loss=5.1e-8, gradient=8.1e-5, leaks=0)
    assert rounded.holds(1e-5)
    assert not replace(rounded, gradient=1e-3).holds(1e-5)
    assert not replace(rounded, loss=8.1e-5).holds(1e-5)
    assert not replace(rounded, leaks=1).holds(1e-5)
    assert not replace(rounded, error="no kernel").holds(1e-5)
    assert not Check(strategy="varlen").holds(1e-5)
