"""Which modules adapters go to, over families; and that none leaves its component (training.md, pitfall 29)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mmdata.errors import SpecError
from mmtrain.adapters.export import ENTRY
from mmtrain.adapters.targets import Modules, Target, find
from mmtrain.components import components
from mmtrain.rules import LAYER
from tests.mmtrain.test_components import EXPECTED, make


def chosen(model: Any, **entry: Any) -> list[Target]:
    return find(model, [ENTRY.validate_python(entry)])


def depth(model: Any, part: str) -> int:
    mine = [alias for alias in Modules(model).by_alias if alias.startswith(f"{part}.")]
    return len({found[1] for alias in mine if (found := LAYER.search(alias))})


@pytest.mark.parametrize("name", EXPECTED)
def test_all_linear_stays_inside_its_component(name: str) -> None:
    """Against the model's own modules: every linear layer of the part, no other, and no head."""
    model = make(name)
    parts = components(model)
    for part in sorted(EXPECTED[name] - {"head"}):
        if (name, part) == ("gemma3", "connector"):
            continue  # a matrix without a module
        found = {target.module for target in chosen(model, kind="lora", component=part)}
        if part == "connector":
            others = [f"{prefix}." for alias, prefix in parts.items() if alias in ("language", "head")]
            assert found
            assert not any(module.startswith(other) for module in found for other in others)
            continue
        root = parts[part]
        mine = {
            f"{root}.{inner}"
            for inner, module in model.get_submodule(root).named_modules()
            # MultiheadAttention has a subclass; Qwen's towers hold their connectors
            if type(module) is nn.Linear and "merger" not in inner and inner != "proj"
        }
        towers = [f"{prefix}." for alias, prefix in parts.items() if alias in ("vision", "audio") and alias != part]
        assert found == {module for module in mine if not any(module.startswith(tower) for tower in towers)}


@pytest.mark.parametrize("name", EXPECTED)
def test_roles_part_the_layers(name: str) -> None:
    model = make(name)
    for part in sorted(EXPECTED[name] & {"vision", "audio", "language"}):
        attention, mlp = (
            {target.alias for target in chosen(model, kind="lora", component=part, targets=role)}
            for role in ("attention", "mlp")
        )
        assert attention
        assert mlp
        assert not attention & mlp
        if name == "native" and part != "language":
            assert {alias.rpartition(".")[2] for alias in attention} == {"qkv", "out"}
            assert {alias.rpartition(".")[2] for alias in mlp} == {"up", "down"}
            continue
        assert all("att" in alias for alias in attention)
        assert all("mlp" in alias or ".fc" in alias or "feed_forward" in alias for alias in mlp)


@pytest.mark.parametrize("name", EXPECTED)
def test_ia3_scales_keys_values_and_the_inside_of_mlps(name: str) -> None:
    model = make(name)
    for part in sorted(EXPECTED[name] & {"vision", "audio", "language"}):
        found = chosen(model, kind="ia3", component=part)
        inner = [target.alias for target in found if target.scales_input]
        outer = [target.alias for target in found if not target.scales_input]
        layers = depth(model, part)
        assert len(inner) == layers, part
        attentions = layers - (1 if (name, part) == ("lfm2_vl", "language") else 0)  # one of its layers convolves
        assert len(outer) == (1 if all("qkv" in alias for alias in outer) else 2) * attentions, part
        assert all(alias.endswith(("down_proj", "fc2", "linear_fc2", "w2", "down")) for alias in inner)


@pytest.mark.parametrize("name", EXPECTED)
def test_bottlenecks_follow_attention_and_mlp_of_every_layer(name: str) -> None:
    model = make(name)
    for part in sorted(EXPECTED[name] & {"vision", "audio", "language"}):
        attentions = depth(model, part) - (1 if (name, part) == ("lfm2_vl", "language") else 0)
        assert len(chosen(model, kind="bottleneck", component=part)) == depth(model, part) + attentions
        assert len(chosen(model, kind="bottleneck", component=part, targets="attention")) == attentions


def test_layers_by_number_and_from_the_top() -> None:
    model = make("llava")
    for wanted, expected in (({"layers": [0, 0]}, "0"), ({"layers": [1, 1]}, "1"), ({"last": 1}, "1")):
        found = chosen(model, kind="lora", component="language", targets=["q_proj"], **wanted)
        assert [target.alias for target in found] == [f"language.layers.{expected}.self_attn.q_proj"]
    both = chosen(model, kind="lora", match=r"(vision|language)\..*q_proj", last=1)
    assert [target.alias.split(".")[0] for target in both] == ["vision", "language"]


def test_weights_that_torch_takes_past_their_module_are_no_targets() -> None:
    class Pooler(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 2)

    model = make("llava")
    model.model.vision_tower.pooler = Pooler()
    assert not [alias for alias in Modules(model).by_alias if "pooler.attention." in alias]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [{"kind": "lora", "component": "audio"}],
            r"adapters.0.component: no 'audio' in this model; its parts are vis",
        ),
        ([{"kind": "lora", "match": "visual.*"}], r"adapters.0.match: 'visual.\*' has nothing in this model"),
        (
            [{"kind": "lora", "component": "language", "targets": ["q_proj", "query"]}],
            r"adapters.0.targets: no module 'query' there; its linear ones are q_proj, k_proj",
        ),
        (
            [{"kind": "lora", "component": "vision", "targets": ["patch_embedding"]}],
            r"patch_embedding is a Conv2d; this kind of adapter is for linear layers",
        ),
        (
            [{"kind": "lora", "component": "language"}, {"kind": "dora", "match": r".*layers\.1\..*q_proj"}],
            r"adapters.1: .*q_proj has a lora already, by adapters.0",
        ),
        (
            [{"kind": "lora", "component": "language", "layers": [1, 2]}],
            r"layers: language has 2 layers, numbered from 0",
        ),
        ([{"kind": "lora", "component": "language", "last": 3}], r"last: language has 2 layers"),
        ([{"kind": "prefix", "component": "connector"}], r"no attention with keys and values of its own"),
        ([{"kind": "ia3", "component": "connector"}], r"adapters.0.targets: nothing of that kind in connector"),
        (
            [{"kind": "bottleneck", "component": "connector"}],
            r"adapters.0.targets: nothing of that kind in connector",
        ),
    ],
)
def test_what_is_not_there_is_named(entries: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        find(make("llava"), [ENTRY.validate_python(entry) for entry in entries])


def test_a_prefix_would_fall_out_of_a_window() -> None:
    with pytest.raises(SpecError, match="sees a sliding window only"):
        chosen(make("gemma3"), kind="prefix", component="language")


def test_halves_of_an_mlp_without_a_module_take_no_parallel_bottleneck() -> None:
    with pytest.raises(SpecError, match="the MLPs there are no modules"):
        chosen(make("qwen2_audio"), kind="bottleneck", component="audio", mode="parallel")
    model = make("native")  # whose layers hold both as modules
    found = [each.alias for each in chosen(model, kind="bottleneck", component="vision", mode="parallel")]
    halves = ("attention", "mlp")
    assert found == [f"vision.layers.{n}.{half}" for n in range(depth(model, "vision")) for half in halves]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "lora"}, "give either `component` or `match`"),
        ({"kind": "lora", "component": "language", "match": "x"}, "give either `component` or `match`"),
        ({"kind": "lora", "component": "language", "layers": [0, 1], "last": 1}, "give either `layers` or `last`"),
        ({"kind": "lora", "component": "language", "layers": [2, 1]}, r"as \[0, 3\]"),
        ({"kind": "lora", "match": "("}, "not a regular expression"),
        ({"kind": "lora", "component": "language", "init": "orthogonal", "rank": 3}, "needs an even one"),
        ({"kind": "lora", "component": "language", "length": 3}, "Extra inputs"),
        ({"kind": "ia3", "component": "language", "targets": ["a"], "feedforward": ["b"]}, "b must be among the names"),
        ({"kind": "loha", "component": "language"}, "loha"),
    ],
)
def test_entries_that_make_no_sense(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ENTRY.validate_python(entry)


def test_the_unused_pooler_is_the_tower_s_affair() -> None:
    """A pattern reaches what a component does not name; the head is a part of its own."""
    model = make("llava")
    assert [target.alias for target in chosen(model, kind="lora", component="head")] == ["head"]
    assert torch.is_tensor(model.lm_head.weight)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_vl_moe"])
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "lora"}, r"adapters.0.targets: all-linear: language.layers.0.mlp.experts keeps all experts in one"),
        ({"kind": "dora", "targets": "mlp"}, r"\(gate_up_proj, down_proj\), which no LoRA reaches; set targets: atten"),
        ({"kind": "lora", "targets": ["q_proj", "down_proj"]}, r"adapters.0.targets: down_proj: .* no adapter reaches"),
        ({"kind": "qlora", "targets": "attention"}, r"would stay as it is beside layers in 4 bits; use kind: lora"),
        ({"kind": "ia3"}, r"adapters.0.targets: all: .* no IA3 reaches"),
        ({"kind": "bottleneck"}, r"adapters.0.targets: all: .* tells no width"),
    ],
)
def test_experts_in_one_tensor_are_refused_not_left_out(name: str, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        chosen(make(name), component="language", **entry)


@pytest.mark.parametrize("kind", ["lora", "ia3", "bottleneck"])
def test_attention_beside_experts_is_adapted(kind: str) -> None:
    found = chosen(make("qwen3_vl_moe"), kind=kind, component="language", targets="attention")
    assert found
    assert all("self_attn" in target.alias for target in found)
    assert chosen(make("qwen3_vl_moe"), kind=kind, component="vision")
