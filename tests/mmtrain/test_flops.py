"""Operations counted from configs and lengths, beside those that torch counts while they are done (training.md, 43)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mmtrain import certificate
from mmtrain.certificate import Strategy
from mmtrain.collate import PackedCollator
from mmtrain.flops import peak, train_flops
from mmtrain.models import build, family_of
from mmtrain.models.spec import NativeSpec
from mmtrain.objective import losses, target_weights
from tests.mmtrain.test_connectors import KINDS
from tests.mmtrain.test_native_connectors import MODEL, SMALL
from tests.mmtrain.test_native_connectors import samples as captions
from tests.mmtrain.tiny_models import make, samples, words

ATEN = torch.ops.aten
KNOWN = ("llama", "llava", "internvl", "idefics3", "smolvlm", "pixtral", "qwen2_audio")
QUICK = ("llama", "llava", "pixtral", "qwen2_5_vl", "qwen2_audio")
OFTEN = ("c_abstractor", "clusters", "token_merge", "qformer", "bias", "fuyu", "gated", "routed")
KNOWN += ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_next", "llava_onevision", "mistral3", "native")


def forward(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def headless(name: str) -> Any:
    """A model whose SigLIP tower does not pool, as published ones have it."""
    model = make(name)
    tower = model.get_encoder(modality="image") if name in ("llava_onevision", "gemma3", "paligemma") else None
    if tower is not None and tower.use_head:
        del tower.head
        tower.use_head = model.config.vision_config.vision_use_head = False
    return model


def counted(model: Any, batches: Sequence[dict[str, Any]], strategy: Strategy = "varlen") -> float:
    """Torch's count; it knows the attention of GPUs only, so that of a CPU is told to it by the same formulas."""
    flash = {
        ATEN._scaled_dot_product_flash_attention_for_cpu: forward,
        ATEN._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    with FlopCounterMode(display=False, custom_mapping=flash) as counter:
        for batch in batches:
            summed, _ = losses(model, batch, target_weights(batch, "token"), strategy)
            summed.backward()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.soak) for n in KNOWN])
def test_counts_are_those_of_torch(name: str) -> None:
    """Packed and alone, all trained and with a frozen tower."""
    model = headless(name)
    certificate.adopt(model, "varlen")
    collate = PackedCollator()
    packs = samples(name)
    for batches in ([collate(packs)], [collate([pack]) for pack in packs]):
        assert sum(train_flops(model, b) or 0 for b in batches) == pytest.approx(counted(model, batches), rel=0.01)


@pytest.mark.parametrize("name", ["gemma3", "paligemma"])
def test_counts_of_dense_masks_are_those_of_torch_sample_by_sample(name: str) -> None:
    """In a pack a mask costs the square of the row, which is not what the model asks for."""
    model = headless(name)
    certificate.adopt(model, "masks")
    batches = [PackedCollator()([pack]) for pack in samples(name)]
    assert sum(train_flops(model, b) or 0 for b in batches) == pytest.approx(counted(model, batches, "masks"), rel=0.01)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_what_is_frozen_costs_less(name: str) -> None:
    model = make(name)
    certificate.adopt(model, "varlen")
    batch = PackedCollator()(samples(name))
    whole = train_flops(model, batch)
    model.get_encoder(modality="image").requires_grad_(False)
    frozen = train_flops(model, batch)
    assert whole is not None
    assert frozen is not None
    assert frozen < whole
    assert frozen == pytest.approx(counted(model, [batch]), rel=0.03)


@pytest.mark.parametrize(
    "told",
    [pytest.param(told, marks=() if told["kind"] in OFTEN else pytest.mark.soak) for told in KINDS],
    ids=lambda told: "-".join(map(str, told.values())),
)
def test_counts_of_connectors_are_those_of_torch(told: dict[str, Any], folder: Path) -> None:
    """All trained, and with a frozen tower; of a depthwise convolution torch counts the gradient as of a dense one."""
    spec = NativeSpec(**{**MODEL, "connector": told})
    model = build(spec, words(), seed=1)
    certificate.adopt(model, "varlen")
    batch = PackedCollator()(captions(folder, family_of(spec, words())))
    close = 0.02 if told["kind"] == "c_abstractor" else 0.001
    assert train_flops(model, batch) == pytest.approx(counted(model, [batch]), rel=close)
    model.model.vision_tower.requires_grad_(False)
    assert train_flops(model, batch) == pytest.approx(counted(model, [batch]), rel=0.03)


TOWERS: dict[str, dict[str, Any]] = {
    "bias": {**SMALL, "positions": "bias", "max_grid": 4},
    "behind": {**SMALL, "layers": 3, "layer": -2},
    "mixup": {**SMALL, "mixup": 0.5},
    "dropping": {**SMALL, "drop": 0.4, "positions": "bias"},
    "naflex": {"kind": "naflex", "hidden": 32, "layers": 2, "heads": 4, "inner": 48, "budget": 24, "side": 4},
    "pix2struct": {"kind": "pix2struct", "hidden": 32, "layers": 2, "heads": 2, "inner": 48, "budget": 24},
    "fuyu": {"kind": "fuyu", "height": 60, "width": 90},
}


@pytest.mark.parametrize("name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.soak) for n in TOWERS])
def test_counts_of_towers_are_those_of_torch(name: str, folder: Path) -> None:
    model = {**MODEL, "vision": TOWERS[name], "connector": {"kind": "linear"}}
    if "kind" in TOWERS[name]:
        model["views"] = {}
    if name == "dropping":
        model["views"] = {"image": {"side": 64, "low": 48, "high": 96}}
    spec = NativeSpec(**model)
    made = build(spec, words(), seed=1)
    certificate.adopt(made, "varlen")
    batch = PackedCollator()(captions(folder, family_of(spec, words())))
    found = train_flops(made, batch)
    assert found == pytest.approx(counted(made, [batch]), rel=0.001)


PERCEIVER = {"kind": "perceiver", "tokens": 3, "layers": 1, "heads": 2, "head_width": 8}
LATE = {"kind": "late", "projection": 8}
FUSED: dict[str, dict[str, Any]] = {
    "gated": {"fusion": {"kind": "gated", "every": 1}},
    "sigmoid": {"fusion": {"kind": "gated", "every": 1, "gate": "sigmoid", "rank": 4}},
    "progressive": {"fusion": {"kind": "progressive", "layers": [0, 1]}, "language": {**SMALL, "layers": 2}},
    "late": {"fusion": LATE, "objective": "contrastive"},
    "pooled": {"fusion": {**LATE, "pool": "attention"}, "objective": "contrastive"},
    "routed": {"experts": {"kind": "routed", "count": 4, "top_k": 2}},
    "modality": {"experts": {"kind": "modality"}},
}


@pytest.mark.parametrize("name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.soak) for n in FUSED])
def test_counts_of_fusion_and_experts_are_those_of_torch(name: str, folder: Path) -> None:
    spec = NativeSpec(**{**MODEL, "connector": PERCEIVER, **FUSED[name]})
    model = build(spec, words(), seed=1)
    certificate.adopt(model, "varlen")
    batch = PackedCollator()(captions(folder, family_of(spec, words())))
    assert train_flops(model, batch) == pytest.approx(counted(model, [batch]), rel=0.001)


@pytest.mark.parametrize(
    "model",
    [
        {"fusion": {"kind": "bidirectional"}},
        {"fusion": {"kind": "gated", "sparse": {}}},
        {"experts": {"kind": "routed", "capacity": 1.0}},
    ],
)
def test_of_what_is_chosen_while_it_runs_nothing_is_said(model: dict[str, Any], folder: Path) -> None:
    spec = NativeSpec(**{**MODEL, "connector": PERCEIVER, **model})
    batch = PackedCollator()(captions(folder, family_of(spec, words())))
    assert train_flops(build(spec, words(), seed=1), batch) is None


def test_layers_behind_the_one_that_is_read_have_no_gradient() -> None:
    """LLaVA takes the last layer but one of CLIP."""
    model = make("llava")
    model.config.vision_feature_layer = -2
    certificate.adopt(model, "varlen")
    batch = PackedCollator()(samples("llava"))
    found = train_flops(model, batch)
    assert found == pytest.approx(counted(model, [batch]), rel=0.001)
    model.config.vision_feature_layer = -1
    assert found != pytest.approx(train_flops(model, batch), rel=0.01)


@pytest.mark.parametrize("name", ["lfm2_vl", "qwen2_5_omni", "llava_onevision"])
def test_of_a_tower_that_is_not_known_nothing_is_said(name: str) -> None:
    assert train_flops(make(name), PackedCollator()(samples(name))) is None


def test_peaks_are_those_of_dense_bf16() -> None:
    assert peak("NVIDIA H200") == 989.4e12
    assert peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak("some CPU") is None
