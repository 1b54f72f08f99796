"""The shipped recipe of preferences: it loads, a model comes to prefer as it is told; a killed run goes on exactly."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from examples.learn import make, pairs
from mmdata import build, specfile
from mmtrain import checkpoint, export, run, sft
from mmtrain.spec import TrainSpec
from tests.mmtrain.test_sft import same_weights, trace

RECIPE = specfile.pipelines() / "train" / "dpo.yaml"
BUILD = Path(__file__).parents[3] / "examples" / "learn" / "pairs_build.yaml"


def test_the_recipe_loads() -> None:
    spec, _ = specfile.load(TrainSpec, str(RECIPE), check_paths=False)
    answer, prefer = spec.runs
    assert answer.preference is None
    assert not answer.data.pairs
    assert prefer.preference is not None
    assert prefer.data.pairs
    assert prefer.steps >= 50
    assert f"mmtrain.sft --config pipelines/train/{RECIPE.name}" in RECIPE.read_text()
    build_spec, _ = specfile.load_build(str(BUILD), check_paths=False)
    assert build_spec.source.kind == "jsonl"


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_preferences_are_learned(tmp_path: Path) -> None:
    """The whole recipe: the loss falls from log 2 by a fifth, seven in ten pairs are told apart better than by the
    reference; from the checkpoint after 50 steps of the second stage it is the same run; it exports."""
    make.main([str(tmp_path), "--only", "shapes", "--train", "1000", "--heldout", "10"])
    pairs.main([str(tmp_path)])
    data = tmp_path / "data"
    sets = [f"source.path={tmp_path / 'pairs' / 'train.jsonl'}", f"source.root={tmp_path / 'shapes'}"]
    told = [word for each in sets for word in ("--set", each)]
    assert build.main(["--spec", str(BUILD), *told, "--output", str(data), "--quiet"]) == 0
    output = tmp_path / "run"
    told = ["--config", str(RECIPE), "--set", f"data.dataset={data}", f"output={output}", "checkpoint.keep=9"]
    assert sft.main(told) == 0
    prefer = output / "02-prefer"
    lines = trace(prefer)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert sum(line["loss"] for line in lines[-20:]) / 20 < 0.8 * math.log(2)
    assert sum(line["rewards/accuracies"] for line in lines[-20:]) / 20 > 0.7
    assert lines[-1]["rewards/margins"] > 0

    whole = tmp_path / "whole"
    shutil.copytree(prefer, whole, symlinks=True)
    (prefer / run.DONE).unlink()
    for saved in checkpoint.found(prefer):
        if checkpoint.step_of(saved) > 50:
            shutil.rmtree(saved)
    latest = prefer / "checkpoints" / "latest"
    latest.unlink()
    latest.symlink_to(checkpoint.found(prefer)[-1].name)
    assert sft.main(told) == 0
    assert trace(prefer) == lines
    assert same_weights(prefer, whole)
    assert export.main([str(prefer), "--output", str(tmp_path / "model")]) == 0
