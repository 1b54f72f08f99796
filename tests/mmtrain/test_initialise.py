"""Rules for how weights begin: keyed draws of the right size, the last module zero, nothing matched in vain."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers

from mmdata.errors import SpecError
from mmtrain.components import aliases
from mmtrain.initialise import InitRule, initialise

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    vision = transformers.CLIPVisionConfig(**SMALL, image_size=8, patch_size=4)
    text = transformers.LlamaConfig(**SMALL, vocab_size=32)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=31)
    return transformers.LlavaForConditionalGeneration(config)


def begun(made: Any, *rules: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    initialise(made, [InitRule(**rule) for rule in rules], seed=seed)
    named = aliases(made)
    return {named[name]: parameter.detach().clone() for name, parameter in made.named_parameters()}


def test_draws_have_their_size_and_leave_vectors() -> None:
    before = begun(model())
    limit = math.sqrt(6 / (64 + 64))  # Glorot
    found = begun(
        model(), {"match": r"connector\..*", "how": "xavier"}, {"match": r"head\..*", "how": "normal", "std": 0.5}
    )
    weight = found["connector.multi_modal_projector.linear_1.weight"]
    assert limit * 0.98 < float(weight.abs().max()) <= limit
    assert float(found["head.weight"].std()) == pytest.approx(0.5, rel=0.1)
    bias = "connector.multi_modal_projector.linear_1.bias"
    assert torch.equal(found[bias], before[bias])
    untouched = [name for name in before if not name.startswith(("connector", "head"))]
    assert all(torch.equal(found[name], before[name]) for name in untouched)


def test_draws_depend_on_seed_and_name_alone() -> None:
    rule = {"match": r"connector\..*", "how": "kaiming"}
    name = "connector.multi_modal_projector.linear_2.weight"
    state = torch.random.get_rng_state()
    one = begun(model(1), rule)[name]
    two = begun(model(2), {"match": r"(connector|head)\..*", "how": "kaiming"})[name]
    other = begun(model(1), rule, seed=1)[name]
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    torch.random.set_rng_state(state)
    begun(model(1), rule)
    again = torch.random.get_rng_state()
    model(1)
    assert torch.equal(torch.random.get_rng_state(), again)  # the rules drew nothing of torch's own


def test_the_last_module_answers_zero() -> None:
    made = model()
    found = begun(made, {"match": r"connector\..*", "how": "zero_last"})
    assert not found["connector.multi_modal_projector.linear_2.weight"].any()
    assert not found["connector.multi_modal_projector.linear_2.bias"].any()
    assert found["connector.multi_modal_projector.linear_1.weight"].any()
    assert not made.model.multi_modal_projector(torch.ones(1, 4, 64)).any()


def test_constants_and_lora_names() -> None:
    made = model()
    layer = made.model.language_model.layers[0].self_attn.q_proj
    layer.lora_A, layer.lora_B = torch.nn.Linear(64, 2, bias=False), torch.nn.Linear(2, 64, bias=False)
    found = begun(made, {"match": r".*norm.*weight", "how": "constant", "value": 0.25}, {"match": ".*", "how": "lora"})
    assert set(found["language.norm.weight"].tolist()) == {0.25}
    assert found["language.layers.0.self_attn.q_proj.lora_A.weight"].any()
    assert not found["language.layers.0.self_attn.q_proj.lora_B.weight"].any()


def test_a_rule_in_vain_is_an_error() -> None:
    with pytest.raises(SpecError, match=r"initialise.0: 'audio.*' matches nothing"):
        initialise(model(), [InitRule(match="audio.*", how="zero")], seed=0)
    with pytest.raises(SpecError, match="nothing that lora could set"):
        initialise(model(), [InitRule(match=".*", how="lora")], seed=0)
    (line,) = initialise(model(), [InitRule(match="head.*", how="zero")], seed=0)
    assert "head.*: zero, deviation 0.00e+00" in line
