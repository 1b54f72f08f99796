"""What decays and how the rate runs."""

from __future__ import annotations

import torch

from mmtrain.components import aliases
from mmtrain.models import build
from mmtrain.models.spec import TinySpec, TowerSpec
from mmtrain.optim import OptimSpec, optimizer, set_rates, thaw
from mmtrain.rules import Rule, resolve
from mmtrain.schedule import schedule
from tests.tokenizer_fixture import small_tokenizer


def test_matrices_decay_norms_biases_and_embeddings_do_not() -> None:
    spec = TinySpec(vision=TowerSpec(hidden=16, heads=2), language=TowerSpec(hidden=16, heads=2))
    model = build(spec, small_tokenizer(), seed=0)
    settings = resolve([], list(aliases(model).values()))
    groups = optimizer(model, OptimSpec(weight_decay=0.3), settings).param_groups
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    free = {names[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]}
    assert decayed | free == set(names.values())
    assert not decayed & free
    assert all("norm" not in name and "embed_tokens" not in name and name.endswith("weight") for name in decayed)
    assert any("lm_head" in name for name in decayed)
    assert any("embed_tokens" in name for name in free)


def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone() -> None:
    spec = TinySpec(vision=TowerSpec(hidden=16, heads=2), language=TowerSpec(hidden=16, heads=2))
    state = torch.random.get_rng_state()
    first, second, other = (build(spec, small_tokenizer(), seed=seed).state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    spec = OptimSpec(warmup_steps=10, min_lr=0.25)
    rates = [schedule(step, 100, spec) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert abs(rates[-1] - 0.25) < 1e-12
    assert schedule(0, 1, OptimSpec(warmup_steps=0)) == 1.0


def test_rules_decide_what_moves_when_and_how_fast() -> None:
    """Frozen parameters stay bit for bit, also under weight decay; staged ones move from their time on (training.md,
    pitfalls 30 and 31)."""
    spec = TinySpec(vision=TowerSpec(hidden=16, heads=2), language=TowerSpec(hidden=16, heads=2))
    model = build(spec, small_tokenizer(), seed=0)
    named = aliases(model)
    rules = [
        Rule(match=r"vision\..*", train=False),
        Rule(match=r"language\..*", lr=1e-4, freeze_until=0.5),
        Rule(match=r"connector\..*", lr=1e-2, weight_decay=0.0),
    ]
    settings = resolve(rules, list(named.values()))
    optim = optimizer(model, OptimSpec(lr=1e-3, weight_decay=0.1), settings)
    assert sorted({group["peak"] for group in optim.param_groups}) == [1e-4, 1e-3, 1e-2]
    assert not any(named_part(model, named, p) == "vision" for group in optim.param_groups for p in group["params"])

    def move(progress: float) -> set[str]:
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        model.train()
        thaw(model, settings, progress)
        set_rates(optim, 0.5)
        optim.zero_grad()
        total = torch.stack([p.square().sum() for p in model.parameters() if p.requires_grad]).sum()
        total.backward()
        optim.step()
        return {named[name].split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}

    assert move(0.0) == {"connector", "head"}
    assert not model.model.vision_tower.training
    assert not model.model.language_model.training
    assert model.model.multi_modal_projector.training
    assert move(0.5) == {"connector", "head", "language"}
    assert model.model.language_model.training
    assert {group["lr"] for group in optim.param_groups} == {5e-5, 5e-4, 5e-3}


def named_part(model: torch.nn.Module, named: dict[str, str], parameter: torch.nn.Parameter) -> str:
    return next(named[name].split(".")[0] for name, other in model.named_parameters() if other is parameter)
