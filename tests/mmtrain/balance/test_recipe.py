"""The shipped recipe of two tasks: it loads and runs, both tasks are learned; a killed run goes on exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdata import specfile
from mmtrain import export, sft
from mmtrain.spec import TrainSpec
from tests.mmtrain.balance.conftest import twice
from tests.mmtrain.test_learning import prepared
from tests.mmtrain.test_sft import same_weights, trace

RECIPE = specfile.pipelines() / "train" / "multitask.yaml"


def test_the_recipe_runs(tasks: list[Path], tmp_path: Path) -> None:
    """Two steps of it, on photographs and texts."""
    spec, _ = specfile.load(TrainSpec, str(RECIPE), check_paths=False)
    assert spec.steps >= 50
    assert f"mmtrain.sft --config pipelines/train/{RECIPE.name}" in RECIPE.read_text()
    datasets = ", ".join(f"{{path: {path}, weight: 1}}" for path in tasks)
    told = [f"data.datasets=[{datasets}]", "data.template=caption", "balance.tasks=[caption, text]"]
    more = ["steps=2", "data.block_samples=20", "scheduled_sampling.k=1", f"output={tmp_path / 'run'}"]
    assert sft.main(["--config", str(RECIPE), "--set", *told, *more]) == 0
    lines = trace(tmp_path / "run")
    assert lines[0]["weight/caption"] == lines[0]["weight/text"] == 1
    assert lines[1]["words_kept"] == 0.5


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_both_tasks_are_learned(tmp_path: Path) -> None:
    """The whole recipe: both losses fall to a third, weights part from 1, words are sampled; from its checkpoint after
    80 steps it is the same run; it exports."""
    data = prepared(tmp_path, "shapes", 1000, 10)
    both = f"[{{path: {data / 'train'}, weight: 3, name: shapes_train}}, " + (
        f"{{path: {data / 'french_train'}, weight: 1, name: shapes_french_train}}]"
    )
    output = tmp_path / "run"
    told = ["--config", str(RECIPE), "--set", f"data.datasets={both}", f"output={output}", "checkpoint.keep=9"]
    again = twice(told, output, 80)
    lines = trace(output)
    assert len(lines) >= 50
    for task in ("shapes_train", "shapes_french_train"):
        losses = [line[f"loss/{task}"] for line in lines if f"loss/{task}" in line]
        assert sum(losses[-10:]) < sum(losses[:10]) / 3, task
        assert lines[-1][f"weight/{task}"] < 0.9
    assert lines[-1]["words_kept"] < 0.9
    assert trace(again) == lines
    assert same_weights(again, output)
    assert export.main([str(output), "--output", str(tmp_path / "model")]) == 0
