"""The recipes of `pipelines/train/` for published models, found by name: each loads, builds and takes a step; in the
soak each learns, goes on after a kill as if nothing had been, and is exported to a folder that loads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from mmdata import specfile
from mmdata.shards.dataset import open_dataset
from mmtrain import export, models, sft
from mmtrain.components import aliases
from mmtrain.rules import resolve
from mmtrain.spec import TrainSpec
from mmtrain.tokenizer import make
from tests.mmtrain.test_sft import killed, same_weights, trace

RECIPES = ("blip2", "flamingo", "llava_15", "llava_next", "minigpt4", "pix2struct", "qwen_vl_three_stage")
TRAINED = {  # of each stage, the parts that learn
    "blip2": [{"connector"}, {"connector"}],
    "flamingo": [{"connector", "fusion"}],
    "llava_15": [{"connector"}, {"connector", "language", "head"}],
    "llava_next": [{"connector"}, {"vision", "connector", "language", "head"}],
    "minigpt4": [{"connector"}, {"connector"}],
    "pix2struct": [{"vision", "connector", "language", "head"}] * 2,
    "qwen_vl_three_stage": [
        {"vision", "connector"},
        {"vision", "connector", "language", "head"},
        {"connector", "language", "head"},
    ],
}


def loaded(name: str) -> TrainSpec:
    spec, file = specfile.load(TrainSpec, name, check_paths=False)
    assert file.parent.name == "train"
    return spec


def runs(spec: TrainSpec) -> tuple[TrainSpec, ...]:
    return spec.runs or (spec,)


def told(name: str, folder: Path, output: Path, *more: str) -> list[str]:
    return ["--config", name, "--set", f"data.dataset={folder}", f"output={output}", *more]


def folders(name: str, output: Path) -> list[Path]:
    """Of the run of each stage."""
    return sorted(path.parent for path in output.rglob("metrics.jsonl"))


def test_every_recipe_is_shipped() -> None:
    assert {path.stem for path in (specfile.pipelines() / "train").glob("*.yaml")} >= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_its_command_its_yield_and_its_source(name: str) -> None:
    top = (specfile.pipelines() / "train" / f"{name}.yaml").read_text().partition("\n\n")[0]
    assert f"python -m mmtrain.sft --config {name}" in top
    assert "Full size (" in top
    assert re.search(r"arXiv \d{4}\.\d{5}|llava-vl\.github\.io", top)
    for word in ("lr ", "warm-up", "steps", "Adafactor" if name == "pix2struct" else "AdamW"):
        assert word in top, word
    assert re.search(r"two runs|three runs|a run of", re.sub(r"\n# ", " ", top))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_and_trains_what_it_says(name: str, folder: Path) -> None:
    dataset = open_dataset(folder)
    spec = loaded(name)
    tokenizer = make(dataset, spec.tokenizer, models.tokenizer_source(spec.model), models.media_tokens(spec.model))
    steps = 0
    for stage, parts in zip(runs(spec), TRAINED[name], strict=True):
        steps += stage.steps
        model = models.build(stage.model, tokenizer, seed=0)
        settings = resolve(stage.parameters, list(aliases(model).values()), {})
        assert {alias.split(".")[0] for alias, setting in settings.items() if setting.train} == parts
        assert sum(parameter.numel() for parameter in model.parameters()) < 400_000
    assert steps >= 50


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_a_step(name: str, folder: Path, tmp_path: Path) -> None:
    spec = loaded(name)
    first = ["stages.0.steps=1", "--stage", spec.stages[0].name] if spec.stages else ["steps=1"]
    assert sft.main(told(name, folder, tmp_path / "run", "global_batch=1", *first)) == 0
    (made,) = folders(name, tmp_path / "run")
    (line,) = trace(made)
    assert 4 < line["loss"] < 9
    assert line["targets"] > 0


@pytest.mark.soak
def test_a_recipe_is_planned(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sft.main(told("flamingo", folder, tmp_path / "run", "--dry-run")) == 0
    shown = capsys.readouterr().out
    assert re.search(r"activations .*\(vision .*, connector .*, fusion .*, language .*, head ", shown)
    assert not (tmp_path / "run").exists()


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_learns_goes_on_and_is_exported(name: str, folder: Path, tmp_path: Path) -> None:
    """From its own YAML, in 50 steps or more: the loss of each stage falls; killed half-way through the first stage and
    started again, it has the same trace and weights; the last stage is exported and loads."""
    spec = loaded(name)
    whole, broken, every = tmp_path / "whole", tmp_path / "broken", "checkpoint.every=7"
    assert sft.main(told(name, folder, whole, every)) == 0
    done = folders(name, whole)
    assert len(done) == len(runs(spec))
    for run, stage in zip(done, runs(spec), strict=True):
        found = losses(run)
        assert len(found) == stage.steps
        assert fmean(found[-5:]) < fmean(found[:5]), (run.name, found)
    half = runs(spec)[0].steps // 2
    first = broken / done[0].name if spec.stages else broken
    assert half < killed(told(name, folder, broken, every), first, half, 0.05) <= runs(spec)[0].steps
    assert sft.main(told(name, folder, broken, every)) == 0
    for run in done:
        other = broken / run.name if spec.stages else broken
        assert trace(other) == trace(run)
        assert same_weights(other, run)
    assert export.main([str(done[-1]), "--output", str(tmp_path / "model")]) == 0
    model: Any = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    tables = list(model.parameters())
    assert all(torch.isfinite(table).all() for table in tables)
    assert sum(map(torch.Tensor.numel, tables)) > 50_000
