"""Averaged weights against torch's AveragedModel; swapped in and out without a trace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmtrain.components import aliases
from mmtrain.ema import PART, Ema, EmaSpec, swapped
from mmtrain.rules import Rule, resolve

SMALL: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def model() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=9, **SMALL))


def moved(weights: Any) -> None:
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.add_(torch.randn_like(parameter))


def average(weights: Any, spec: EmaSpec, *rules: Rule) -> Ema:
    return Ema(weights, resolve(rules, list(aliases(weights).values())), spec)


def test_it_is_torchs_average() -> None:
    ours, decay = model(), 0.9
    theirs = AveragedModel(ours, multi_avg_fn=get_ema_multi_avg_fn(decay))
    theirs.update_parameters(ours)  # the first one is a copy
    ema = average(ours, EmaSpec(decay=decay, warmup=False, every=2))
    for step in range(6):
        moved(ours)
        ema.update(ours, step)
        if step % 2 == 1:
            theirs.update_parameters(ours)
    assert ema.updates == 3
    expected = {name.removeprefix("module."): p for name, p in theirs.named_parameters()}
    assert ema.values.keys() == expected.keys()
    for name, value in ema.values.items():
        assert torch.allclose(value, expected[name], atol=1e-6)


def test_the_first_updates_count_more() -> None:
    ours = model()
    start = {name: p.detach().clone() for name, p in ours.named_parameters()}
    ema = average(ours, EmaSpec(decay=0.9999))
    moved(ours)
    ema.update(ours, 0)
    for name, parameter in ours.named_parameters():
        assert torch.allclose(ema.values[name], 0.1 * start[name] + 0.9 * parameter, atol=1e-6)


def test_state_goes_on_exactly_and_frozen_weights_are_left_out() -> None:
    ours = model()
    ema = average(ours, EmaSpec(), Rule(match="head.*", train=False))
    assert "lm_head.weight" not in ema.values
    moved(ours)
    ema.update(ours, 0)
    saved = {"updates": ema.updates, "values": {n: v.clone() for n, v in ema.state_dict()["values"].items()}}
    other = average(model(), EmaSpec(), Rule(match="head.*", train=False))
    other.load_state_dict(saved)
    moved(ours)
    for each in (ema, other):
        each.update(ours, 1)
    assert all(torch.equal(ema.values[name], other.values[name]) for name in ema.values)


def test_swapped_weights_come_back_to_the_bit() -> None:
    ours = model()
    ema = average(ours, EmaSpec())
    moved(ours)
    before = {name: p.detach().clone() for name, p in ours.named_parameters()}
    job: Any = SimpleNamespace(model=ours, parts={PART: ema})

    def inside() -> None:
        with swapped(job) as averaged:
            assert averaged
            assert all(torch.equal(p, ema.values[name]) for name, p in ours.named_parameters())
            raise RuntimeError("in an evaluation")

    with pytest.raises(RuntimeError, match="in an evaluation"):
        inside()
    assert all(torch.equal(p, before[name]) for name, p in ours.named_parameters())
    job.parts.clear()
    with swapped(job) as averaged:
        assert not averaged
