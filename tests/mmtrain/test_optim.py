"""What decays and how the rate runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from mmdata.errors import SpecError
from mmtrain import sft
from mmtrain.components import aliases
from mmtrain.models import build
from mmtrain.models.spec import TinySpec, TowerSpec
from mmtrain.optim import OptimSpec, ScaleSpec, clip, gradient_norms, lr_factor, optimizer, set_rates, thaw
from mmtrain.rules import Rule, resolve
from mmtrain.schedule import schedule
from tests.mmtrain.test_sft import arguments
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


def test_limits_are_torchs_by_part_and_as_a_whole() -> None:
    """Against `clip_grad_norm_` of the same parameters (each part, then all)."""
    torch.manual_seed(0)
    parts = {
        "vision": [torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(2)],
        "head": [torch.nn.Parameter(torch.zeros(5))],
    }
    groups = [{"params": members, "peak": 1.0, "part": part} for part, members in parts.items()]
    optim = torch.optim.AdamW(groups, lr=1.0)
    drawn = {p: torch.randn_like(p) for members in parts.values() for p in members}

    def fresh() -> None:
        for parameter, gradient in drawn.items():
            parameter.grad = gradient.clone()

    fresh()
    found = gradient_norms(optim)
    for part, members in parts.items():
        assert found[part] == pytest.approx(float(torch.cat([drawn[p].flatten() for p in members]).norm()), rel=1e-6)
    after = clip(optim, found, {"vision": 0.5, "all": 0.8})
    mine = [p.grad.clone() for p in drawn if p.grad is not None]
    assert gradient_norms(optim) == pytest.approx(after, rel=1e-5)
    fresh()
    torch.nn.utils.clip_grad_norm_(parts["vision"], 0.5)
    torch.nn.utils.clip_grad_norm_(list(drawn), 0.8)
    for one, parameter in zip(mine, drawn, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(one, parameter.grad, atol=1e-7)
    fresh()
    clip(optim, gradient_norms(optim), {"all": 100.0})
    assert all(torch.equal(p.grad, drawn[p]) for p in drawn if p.grad is not None)


@pytest.mark.parametrize("implementation", ["fused", "foreach", "plain"])
def test_every_kernel_is_adamw(implementation: Any) -> None:
    torch.manual_seed(0)
    ours, theirs = (small_model() for _ in range(2))
    settings = resolve([], list(aliases(ours).values()))
    spec = OptimSpec(lr=0.01, weight_decay=0.0, implementation=implementation)
    mine, plain = (
        optimizer(ours, spec, settings),
        torch.optim.AdamW(theirs.parameters(), 0.01, spec.betas, weight_decay=0),
    )
    for _ in range(3):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        mine.step()
        plain.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def small_model() -> Any:
    spec = TinySpec(vision=TowerSpec(hidden=16, heads=2), language=TowerSpec(hidden=16, heads=2))
    return build(spec, small_tokenizer(), seed=0)


def test_what_cannot_be_had_is_said() -> None:
    model = small_model()
    settings = resolve([], list(aliases(model).values()))
    with pytest.raises(SpecError, match=r"paged_8bit (needs bitsandbytes|pages CUDA memory)"):
        optimizer(model, OptimSpec(implementation="paged_8bit"), settings)
    with pytest.raises(SpecError, match=r"no part .visoin. is trained; did you mean .vision."):
        optimizer(model, OptimSpec(clip={"visoin": 1.0}), settings)
    with pytest.raises(SpecError, match="nothing to train"):
        optimizer(model, OptimSpec(), resolve([Rule(match=".*", train=False)], list(settings)))


@pytest.mark.parametrize(("rule", "factor"), [("linear", 0.25), ("sqrt", 0.5)])
def test_rates_follow_the_batch(rule: Any, factor: float) -> None:
    spec = OptimSpec(lr=0.1, scale_lr=ScaleSpec(reference_batch=16, rule=rule))
    assert lr_factor(spec, 4) == factor
    assert lr_factor(OptimSpec(), 4) == 1.0
    model = small_model()
    settings = resolve([Rule(match="head.*", lr=0.2)], list(aliases(model).values()))
    groups = optimizer(model, spec, settings, factor=factor).param_groups
    assert {(group["part"] == "head", group["peak"]) for group in groups} == {
        (True, 0.2 * factor),
        (False, 0.1 * factor),
    }


def test_thawed_in_stages_moments_begin_late(folder: Path, tmp_path: Path) -> None:
    """Projector, then the last layer, then all, through the command: each moves from its share of the steps on, and
    Adam's count of it begins there."""
    rules = "parameters=[{match: '.*', freeze_until: 0.67}, {match: 'connector.*', freeze_until: 0}"
    rules += ", {match: 'language.layers.1.*', freeze_until: 0.34}]"
    moved: list[dict[str, float]] = []

    def count(optim: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        moved.append(
            {
                f"{g['part']}/{n}": float(optim.state[p]["step"])
                for g in optim.param_groups
                for n, p in enumerate(g["params"])
                if p in optim.state
            }
        )

    hook = register_optimizer_step_post_hook(count)
    try:
        assert sft.main(arguments(folder, tmp_path / "run", "--set", "steps=6", rules)) == 0
    finally:
        hook.remove()
    parts = [{name.split("/")[0] for name in step} for step in moved]
    assert parts[0] == parts[1] == {"connector"}
    assert "language" in parts[3]
    assert "vision" not in parts[3]
    assert parts[5] >= {"connector", "language", "vision", "head"}
    counts = {part: {value for name, value in moved[5].items() if name.startswith(part)} for part in parts[5]}
    assert (counts["connector"], counts["vision"], counts["head"]) == ({6.0}, {1.0}, {1.0})
    assert counts["language"] == {3.0, 1.0}
