"""Ranks from rules, and the table of what there is."""

from __future__ import annotations

import pytest

from mmdata.errors import SpecError
from mmtrain import adapters
from mmtrain.adapters.spec import LoraSpec
from mmtrain.components import aliases
from mmtrain.rules import Rule, resolve, table
from tests.mmtrain.adapters.models import llama, put
from tests.mmtrain.tiny_models import make as make_family

ENTRY = LoraSpec(kind="lora", component="language", targets=("q_proj", "v_proj"), rank=4)


def test_rules_set_ranks_from_general_to_particular() -> None:
    rules = (
        Rule(match=r"language\..*", lora_rank=2, lr=1e-3),
        Rule(match=r"language\.layers\.2\..*", lora_rank=6),
        Rule(match=r"language\.layers\.0\..*v_proj.*", lora_rank=0),
        Rule(match=r".*\.lora\..*", lr=1e-2),  # matches what is not there yet
    )
    found = {target.alias: target.rank for target in adapters.plan(llama(), [ENTRY], rules)}
    assert found == {
        "language.layers.0.self_attn.q_proj": 2,
        "language.layers.1.self_attn.q_proj": 2,
        "language.layers.1.self_attn.v_proj": 2,
        "language.layers.2.self_attn.q_proj": 6,
        "language.layers.2.self_attn.v_proj": 6,
    }


def test_without_an_entry_a_rule_puts_lora_in() -> None:
    rule = Rule(match=r"language\.layers\.1\.self_attn\.[qk]_proj\.weight", lora_rank=3)
    found = adapters.plan(llama(), [], [rule])
    assert [(target.alias[-6:], target.rank, target.entry.kind) for target in found] == [
        ("q_proj", 3, "lora"),
        ("k_proj", 3, "lora"),
    ]
    assert adapters.plan(llama(), [], [Rule(match=".*", lr=1.0)]) == []


def test_rules_that_reach_no_lora_are_errors() -> None:
    with pytest.raises(SpecError, match=r"parameters.0.lora_rank: .* matches no weight with a LoRA; there is lang"):
        adapters.plan(llama(), [ENTRY], [Rule(match=r"language\..*down_proj.*", lora_rank=3)])
    with pytest.raises(SpecError, match="match no weight of a linear layer"):
        adapters.plan(llama(), [], [Rule(match=r"language\.norm\.weight", lora_rank=3)])
    crossing = [Rule(match=r".*q_proj.*", lora_rank=3), Rule(match=r".*layers\.1.*", lora_rank=2)]
    with pytest.raises(SpecError, match="disagree on"):
        adapters.plan(llama(), [ENTRY], crossing)
    odd = ENTRY.model_copy(update={"init": "orthogonal"})
    with pytest.raises(SpecError, match="is given rank 3, and an orthogonal start"):
        adapters.plan(llama(), [odd], [Rule(match=r".*q_proj.*", lora_rank=3)])


def test_with_adapters_they_alone_are_trained_unless_a_rule_says_so() -> None:
    model = put(llama(), ENTRY.model_dump())
    names = list(aliases(model).values())
    lora = {name for name in names if ".lora." in name}
    rules = [
        Rule(match=r"head\..*", train=True),
        Rule(match=r"language\..*", train=False, weight_decay=0.3, lr=1e-5),
        Rule(match=r".*layers\.2\..*\.lora\..*", lr=1e-3, weight_decay=0.1),
    ]
    found = resolve(rules, names, adapters.defaults(model))
    assert {name for name in names if found[name].train} == lora | {"head.weight"}
    assert {found[name].weight_decay for name in lora if "layers.2" not in name} == {0.0}
    assert {(found[name].lr, found[name].weight_decay) for name in lora if "layers.2" in name} == {(1e-3, 0.1)}
    assert found["language.layers.0.self_attn.q_proj.lora.a"].lr == 1e-5
    frozen = resolve([Rule(match=r".*\.lora\..*", train=False)], names, adapters.defaults(model))
    assert not any(setting.train for setting in frozen.values())
    text = table(found, dict.fromkeys(names, 1), lr=1e-2)
    assert "adapters, lr 1.00e-05" in text
    assert "frozen" in text


def test_the_table_counts_modules_ranks_and_shares() -> None:
    model = put(llama(), ENTRY.model_dump(), rules=(Rule(match=r".*layers\.0\..*", lora_rank=1),))
    ours = sum(tensor.numel() for tensor in adapters.adapter_state(model).values())
    share = ours / sum(parameter.numel() for parameter in model.parameters())
    assert adapters.table(model).splitlines() == [
        f"adapter language: lora in 6 modules, rank 1 to 4, {ours:,} values",
        f"adapter in all: {ours:,} values, {share:.2%} of the model",
    ]
    assert adapters.table(llama()) == ""


def test_a_rank_for_experts_in_one_tensor_is_refused() -> None:
    model = make_family("mixtral")
    with pytest.raises(SpecError, match=r"parameters: lora_rank: language.layers.0.mlp.experts .* no LoRA reaches"):
        adapters.plan(model, [], [Rule(match=r"language\..*", lora_rank=4)])
    narrow = [Rule(match=r"language\..*", lora_rank=4), Rule(match=r"language\..*experts.*", lora_rank=0)]
    found = adapters.plan(model, [], narrow)
    assert {target.alias.rpartition(".")[2] for target in found} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    entry = LoraSpec(kind="lora", component="language", targets="attention")
    assert {target.rank for target in adapters.plan(model, [entry], [Rule(match=r"language\..*", lora_rank=4)])} == {4}
