"""Averaged weights against torch's AveragedModel; swapped in and out without a trace."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmtrain import checkpoint, export, run, sft
from mmtrain.components import aliases
from mmtrain.ema import PART, Ema, EmaSpec, swapped
from mmtrain.rules import Rule, resolve
from tests.mmtrain.test_sft import arguments, trace

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


EVERYTHING = [
    "steps=6",
    "checkpoint.every=2",
    "ema={decay: 0.9, every: 2}",
    "optim.scale_lr={reference_batch: 8, rule: sqrt}",
    "token_weight_schedule=[{until: 0.5, special: 2.0}, {special: 0.5}]",
    "parameters=[{match: 'vision.*', freeze_until: 0.5}]",
]


def state(output: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All tensors of a run's last checkpoint, and what else its parts keep."""
    last = checkpoint.found(output)[-1]
    tensors = {
        f"{name}/{key}": value
        for name in ("model", "optimizer", "parts")
        for key, value in load_file(last / f"{name}.safetensors").items()
    }
    return tensors, checkpoint.read_info(last)["parts"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_stopped_with_everything_that_has_a_state_it_goes_on_exactly(
    folder: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Averages, scaled rates, phases, layers that thaw, the loss scale: the trace, every tensor and every number."""
    more = ["--set", *EVERYTHING, f"precision={precision}"]
    assert sft.main(arguments(folder, tmp_path / "whole", *more)) == 0
    write = run.Log.write

    def stop(self: run.Log, values: dict[str, Any]) -> None:
        write(self, values)
        if values["step"] == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run.Log, "write", stop)
        assert sft.main(arguments(folder, tmp_path / "run", *more)) == 130
    assert sft.main(arguments(folder, tmp_path / "run", *more)) == 0
    assert "4 of 6 steps are done" in capsys.readouterr().out
    assert trace(tmp_path / "run") == trace(tmp_path / "whole")
    (tensors, parts), (expected, others) = state(tmp_path / "run"), state(tmp_path / "whole")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())
    assert parts == others
    assert parts["ema"]["updates"] >= 2
    if precision == "fp16":  # the first steps overflowed, which moved no average
        assert parts["loss_scale"]["scale"] < 65536


def test_averaged_weights_are_what_is_exported(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    told = ["--set", "steps=3", "ema={decay: 0.5, warmup: false}", "parameters=[{match: 'vision.*', train: false}]"]
    assert sft.main(arguments(folder, output, *told)) == 0
    last = checkpoint.found(output)[-1]
    raw = load_file(last / "model.safetensors")
    averages = load_file(last / "parts.safetensors")
    for weights, name in (("auto", "one"), ("ema", "two"), ("raw", "three")):
        assert export.main([str(output), "--output", str(tmp_path / name), "--weights", weights]) == 0
        assert (", averaged weights" in capsys.readouterr().out) == (weights != "raw")
        loaded = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / name)
        for key, parameter in loaded.named_parameters():
            averaged = averages.get(f"ema/values/{key}", raw[key])
            assert torch.equal(parameter, raw[key] if weights == "raw" else averaged)
            assert (f"ema/values/{key}" in averages) != ("vision_tower" in key)

    assert sft.main(arguments(folder, tmp_path / "plain", "--set", "steps=1")) == 0
    plain = [str(tmp_path / "plain"), "--output", str(tmp_path / "four")]
    assert export.main([*plain, "--weights", "ema"]) == 2
    assert "keeps no averaged weights" in capsys.readouterr().err
    assert export.main(plain) == 0
    assert ", averaged weights" not in capsys.readouterr().out
