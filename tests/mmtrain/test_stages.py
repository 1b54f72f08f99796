"""Recipes of several stages: each a run of its own, from the weights of the one before, passed over when it is done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from mmtrain import checkpoint, run, sft
from mmtrain.spec import TrainSpec
from tests.mmtrain.test_sft import arguments, same_weights, trace

RECIPE = """stages=[
  {name: align, steps: 2, parameters: [{match: "vision.*|language.*|head.*", train: false}],
   initialise: [{match: 'connector\\..*', how: xavier}], optim: {lr: 0.01}},
  {name: tune, steps: 2, adapters: [{kind: lora, match: 'language\\..*q_proj', rank: 2}], data: {train_on: all}},
  {name: instruct, steps: 2, global_batch: 1, optim: {schedule: wsd}}]""".replace("\n", " ")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.found(run)[-1] / "model.safetensors")


def merged_values(**more: Any) -> dict[str, Any]:
    return {"data": {"dataset": "x"}, "output": "out", "optim": {"lr": 0.5, "clip": 2.0}, **more}


def test_a_stage_is_the_top_level_with_changes() -> None:
    spec = TrainSpec.model_validate(
        merged_values(
            initialise=[{"match": "head.*", "how": "zero"}],
            stages=[
                {"name": "a", "optim": {"lr": 0.1}},
                {"name": "b", "data": {"datasets": [{"path": "y"}, {"path": "z"}]}, "steps": 7},
            ],
        )
    )
    one, two = spec.runs
    assert (one.optim.lr, one.optim.clip, one.steps, one.output) == (0.1, 2.0, 60, "out/01-a")
    assert (two.optim.lr, two.steps, two.output) == (0.5, 7, "out/02-b")
    assert [source.path for source in two.data.sources] == ["y", "z"]
    assert len(one.initialise) == 1
    assert two.initialise == ()
    assert one.stages == two.stages == ()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"name": "a", "optim": {"lrr": 1}}], r"stages: a: optim.lrr.*did you mean 'lr'"),
        ([{"name": "a"}, {"name": "a"}], "two are called a"),
        ([{"name": "a", "output": "b"}], "a: output belongs at the top level"),
        ([{"name": "no/slash"}], "should match pattern"),
        ([{"name": "a", "weights": "raw"}], "a: weights: the first stage has none before it"),
        ([{"name": "a"}, {"name": "b", "weights": "ema"}], "b: weights: ema: the stage before averages none"),
    ],
)
def test_mistakes_of_a_stage_are_named(stages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSpec.model_validate(merged_values(stages=stages))


def test_a_recipe_runs_resumes_and_hands_its_weights_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    told = arguments(folder, output, "--set", RECIPE)
    assert sft.main([*told, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("stage  ") == 3
    assert not output.exists()
    assert sft.main([*told, "--stage", "tune"]) == 2
    assert "align, the stage before, is not done" in capsys.readouterr().err

    assert sft.main(told) == 0
    shown = capsys.readouterr().out
    assert "xavier" in shown
    assert "its adapters merged into the weights" in shown
    align, tune, instruct = (output / name for name in ("01-align", "02-tune", "03-instruct"))
    assert [len(trace(run)) for run in (align, tune, instruct)] == [2, 2, 2]
    first, second, third = weights(align), weights(tune), weights(instruct)
    # The connector learned in the first stage, and is what the second one froze.
    connector = [name for name in first if "multi_modal_projector" in name]
    assert connector
    assert all(torch.equal(first[name], second[name]) for name in connector)
    assert any("lora" in name for name in second)
    assert not any("lora" in name for name in third)
    assert trace(align)[0]["loss"] != trace(tune)[0]["loss"]
    tokenizers = [(run / "tokenizer" / "tokenizer.json").read_bytes() for run in (align, tune, instruct)]
    assert len(set(tokenizers)) == 1

    # Done stages are passed over; one that is taken away is run again, with the same numbers.
    before = trace(instruct)
    shutil.rmtree(instruct)
    assert sft.main(told) == 0
    assert capsys.readouterr().out.count("nothing left to do") == 2
    assert trace(instruct) == before
    assert json.loads((instruct / "config.json").read_text())["after"]
    assert all(torch.equal(third[name], other) for name, other in weights(instruct).items())


def test_a_stage_takes_averaged_weights_or_those_that_were_trained(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where adapters are put beside them. What the second stage freezes tells what it got."""
    frozen = r"steps: 1, parameters: [{match: 'vision\..*|connector\..*', train: false}]"
    lora = r"adapters: [{kind: lora, match: 'language\..*q_proj', rank: 2}]"
    align = "{name: align, steps: 3, ema: {decay: 0.5, warmup: false}}"
    output = tmp_path / "run"
    for choice, more in (("auto", frozen), ("raw", frozen), ("ema", f"steps: 1, {lora}"), ("raw", f"steps: 1, {lora}")):
        shutil.rmtree(output / "02-tune", ignore_errors=True)
        told = f"stages=[{align}, {{name: tune, weights: {choice}, {more}}}]"
        assert sft.main(arguments(folder, output, "--set", told)) == 0
        assert (", averaged weights" in capsys.readouterr().out) == (choice != "raw")
        before, found = weights(output / "01-align"), weights(output / "02-tune")
        averages = load_file(checkpoint.found(output / "01-align")[-1] / "parts.safetensors")
        kept = [name for name in before if "vision_tower" in name or "multi_modal_projector" in name]
        assert sum(not torch.equal(before[name], averages[f"ema/values/{name}"]) for name in kept) > 10
        for name in kept:
            assert torch.equal(found[name], before[name] if choice == "raw" else averages[f"ema/values/{name}"]), name


def test_a_stage_that_was_stopped_is_not_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though it left a checkpoint, and its stream is one that ends: all stages together go on in the middle of it."""
    more = ["data.epochs=1", "checkpoint.every=1", "stages=[{name: align, steps: 50}, {name: tune, steps: 2}]"]
    assert sft.main(arguments(folder, tmp_path / "whole", "--set", *more)) == 0
    steps = len(trace(tmp_path / "whole" / "01-align"))
    assert 4 < steps < 50  # the stream ended it

    output, write = tmp_path / "run", run.Log.write

    def stop(self: run.Log, values: dict[str, Any]) -> None:
        write(self, values)
        if values["step"] == 3:
            raise KeyboardInterrupt

    told = arguments(folder, output, "--set", *more)
    with monkeypatch.context() as patched:
        patched.setattr(run.Log, "write", stop)
        assert sft.main(told) == 130
    assert checkpoint.found(output / "01-align")[-1].name == "step-00000003"
    assert sft.main([*told, "--stage", "tune"]) == 2
    assert "align, the stage before, is not done" in capsys.readouterr().err
    assert sft.main(told) == 0
    assert "3 of 50 steps are done" in capsys.readouterr().out
    for stage in ("01-align", "02-tune"):
        assert trace(output / stage) == trace(tmp_path / "whole" / stage)
        assert same_weights(output / stage, tmp_path / "whole" / stage)

    # What it ended with has to be there: without its last checkpoint, or with a damaged one, it is not done.
    shutil.rmtree(output / "02-tune")
    last = checkpoint.found(output / "01-align")[-1] / "model.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    assert sft.main([*told, "--stage", "tune"]) == 2
    assert sft.main(told) == 0
    assert same_weights(output / "02-tune", tmp_path / "whole" / "02-tune")
