"""What decays and how the rate runs."""

from __future__ import annotations

import torch

from mmtrain.model import build
from mmtrain.optim import learning_rate, optimizer
from mmtrain.spec import ModelSpec, OptimSpec, TowerSpec
from tests.tokenizer_fixture import small_tokenizer


def test_matrices_decay_norms_biases_and_embeddings_do_not() -> None:
    spec = ModelSpec(vision=TowerSpec(hidden=16, heads=2), language=TowerSpec(hidden=16, heads=2))
    model = build(spec, small_tokenizer(), seed=0)
    decay, rest = optimizer(model, OptimSpec(weight_decay=0.3)).param_groups
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(parameter)] for parameter in decay["params"]}
    free = {names[id(parameter)] for parameter in rest["params"]}
    assert decayed | free == set(names.values())
    assert not decayed & free
    assert all("norm" not in name and "embed_tokens" not in name and name.endswith("weight") for name in decayed)
    assert any("lm_head" in name for name in decayed)
    assert any("embed_tokens" in name for name in free)


def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone() -> None:
    spec = ModelSpec(vision=TowerSpec(hidden=16, heads=2), language=TowerSpec(hidden=16, heads=2))
    state = torch.random.get_rng_state()
    first, second, other = (build(spec, small_tokenizer(), seed=seed).state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    spec = OptimSpec(lr=2.0, warmup_steps=10, min_lr=0.25)
    rates = [learning_rate(step, 100, spec) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[9] == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert abs(rates[-1] - 0.5) < 1e-12
    assert learning_rate(0, 1, OptimSpec(lr=2.0, warmup_steps=0)) == 2.0
