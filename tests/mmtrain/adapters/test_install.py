"""Adapters in a model: names stay, borders hold, what is frozen stays as it is to the bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from mmdata.collate import PackedCollator
from mmdata.errors import SpecError
from mmtrain import adapters, attention, blocks, certificate
from mmtrain.adapters.export import ENTRY
from mmtrain.components import aliases
from mmtrain.optim import OptimSpec, optimizer, thaw
from mmtrain.rules import Rule, resolve
from tests.mmtrain.adapters.models import ids, llama, logits, put
from tests.mmtrain.test_components import make
from tests.mmtrain.tiny_models import FAMILIES, samples
from tests.mmtrain.tiny_models import make as make_family

LANGUAGE = {"component": "language"}
ALL: dict[str, list[dict[str, Any]]] = {
    "lora": [{"kind": "lora", **LANGUAGE, "dropout": 0.5}],
    "rslora": [{"kind": "rslora", **LANGUAGE}],
    "dora": [{"kind": "dora", **LANGUAGE, "targets": "attention"}],
    "ia3": [{"kind": "ia3", **LANGUAGE}],
    "prefix": [{"kind": "prefix", **LANGUAGE, "length": 3}],
    "sequential": [{"kind": "bottleneck", **LANGUAGE, "hidden": 5, "dropout": 0.5}],
    "parallel": [{"kind": "bottleneck", **LANGUAGE, "hidden": 5, "mode": "parallel"}],
}
ALL["hybrid"] = [
    {"kind": "dora", **LANGUAGE, "targets": "attention", "last": 1},
    {"kind": "rslora", "component": "connector"},
    {"kind": "lora", "component": "vision", "targets": "mlp", "layers": [0, 0], "init": "pissa"},
    *ALL["ia3"],
    *ALL["prefix"],
    *ALL["parallel"],
]


@pytest.mark.parametrize("kind", ["lora", "prefix", "hybrid"])
def test_packed_is_separate_with_adapters(kind: str) -> None:
    """The certificate of the adapted model: loss and gradients in 1e-5, and no influence over borders."""
    model = put(make_family("llava"), *ALL[kind], move=0.1)
    found = certificate.certify(model, samples("llava")[:3], lambda packs: dict(PackedCollator()(list(packs))))
    assert found.strategy == "varlen", found


@pytest.mark.parametrize("family", [name for name in FAMILIES if name in ("qwen2_5_vl", "qwen3_vl", "idefics3")])
def test_prefixes_in_other_families(family: str) -> None:
    model = put(make_family(family), *ALL["prefix"], move=0.5)
    found = certificate.certify(model, samples(family)[:3], lambda packs: dict(PackedCollator()(list(packs))))
    assert found.strategy == "varlen", found


@pytest.mark.parametrize("kind", ALL)
def test_names_stay_and_adapters_have_theirs(kind: str) -> None:
    plain = make("llava")
    before = dict(aliases(plain))
    kept = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    model = put(plain, *ALL[kind])
    after = aliases(model)
    assert {name: after[name] for name in before} == before
    mine = {alias for name, alias in after.items() if name not in before}
    assert mine == {
        alias for alias in mine if any(f".{name}." in alias for name in ("lora", "ia3", "prefix", "bottleneck"))
    }
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())
    adapters.remove(model)
    assert model.state_dict().keys() == kept.keys()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in ("prefix", "hybrid")])
def test_they_begin_as_nothing(kind: str) -> None:
    model = llama()
    expected = logits(model)
    entries = [ENTRY.validate_python(entry) for entry in ALL[kind]]
    adapters.install(model, adapters.plan(model, entries, ()), seed=3)
    assert (logits(model) - expected).abs().max() < 1e-5


def test_draws_depend_on_seed_and_place_alone() -> None:
    def drawn(seed: int, *entries: dict[str, Any]) -> dict[str, torch.Tensor]:
        model = llama()
        found = adapters.plan(model, [ENTRY.validate_python(entry) for entry in entries], ())
        adapters.install(model, found, seed=seed)
        return adapters.adapter_state(model)

    one = drawn(1, {"kind": "lora", "component": "language", "last": 1})
    torch.manual_seed(77)
    more = drawn(1, {"kind": "lora", "component": "language"})
    assert all(torch.equal(more[name], tensor) for name, tensor in one.items())
    other = drawn(2, {"kind": "lora", "component": "language", "last": 1})
    assert not any(torch.equal(other[name], tensor) for name, tensor in one.items() if name.endswith(".a"))


@pytest.mark.parametrize(("kind", "recomputed"), [*((kind, "none") for kind in ALL), ("hybrid", "full")])
def test_what_is_frozen_stays_and_rests(kind: str, recomputed: Any) -> None:
    """Three steps with weight decay: the model's weights to the bit; its modules in `eval()`, the adapters' not
    (training.md, pitfall 30)."""
    model = put(make("llava"), *ALL[kind], move=0.05)
    names = set(adapters.adapter_state(model))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = resolve([Rule(match=".*", weight_decay=0.5)], list(aliases(model).values()), adapters.defaults(model))
    optim = optimizer(model, OptimSpec(lr=0.01), settings)
    assert {group["weight_decay"] for group in optim.param_groups} == {0.0}
    blocks.recompute(model, recomputed)
    if kind in ("prefix", "hybrid"):
        assert attention.needed(model)
    image = model.config.image_token_id
    tokens = torch.tensor([[image + 50, *[image] * 4, image + 51, image + 52]])
    for _ in range(3):
        model.train()
        thaw(model, settings, 0.5)
        found = list(adapters.adapters(model))
        inside = {module for _, _, adapter in found for module in adapter.modules()}
        assert all(module.training == (module in inside) for module in model.model.language_model.modules())
        loss = model(input_ids=tokens, pixel_values=torch.ones(1, 3, 28, 28), labels=tokens, use_cache=False).loss
        loss.backward()
        optim.step()
        optim.zero_grad()
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name not in names)
    moved = [name for name in names if not torch.equal(after[name], before[name])]
    assert len(moved) > 0.8 * sum(not name.endswith("0") for name in names)


def test_recomputed_layers_have_the_same_gradients() -> None:
    def gradients(which: Any) -> dict[str, torch.Tensor]:
        model = put(llama(), *ALL["dora"], *ALL["prefix"], *ALL["sequential"]).eval()
        blocks.recompute(model, which)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(f".{kind}." in name for kind in ("lora", "prefix", "bottleneck")))
        model(input_ids=ids(), labels=ids(), use_cache=False).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    one, other = gradients("none"), gradients("full")
    assert one.keys() == other.keys()
    assert len(one) > 20
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_copies_run_their_own_adapters() -> None:
    model = put(llama(), *ALL["lora"], *ALL["prefix"], *ALL["parallel"])
    twin = copy.deepcopy(model)
    expected = logits(model)
    with torch.no_grad():
        for _, _, adapter in adapters.adapters(model):
            for parameter in adapter.parameters():
                parameter.zero_()
    assert torch.equal(logits(twin), expected)
    assert not torch.equal(logits(model), expected)


def test_another_attention_would_lose_a_prefix() -> None:
    model = put(llama(), *ALL["prefix"])
    model.set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError, match="prefix tuning needs the attention 'varlen'"):
        logits(model)
    certificate.adopt(model, "single")
    assert logits(model).isfinite().all()


def test_kinds_meet_in_a_module_but_not_one_kind_twice() -> None:
    model = put(llama(), *ALL["lora"], *ALL["ia3"])
    with pytest.raises(ValueError, match="has a lora already"):
        put(model, *ALL["dora"])
    with pytest.raises(SpecError, match=r"has a lora already, by adapters\.0"):
        put(llama(), *ALL["lora"], *ALL["dora"])
