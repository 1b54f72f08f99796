"""The shipped recipes: they load, run, fall, go on after a kill, and find shapes again by their texts."""

from __future__ import annotations

import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from mmdata import specfile
from mmtrain.contrastive import main
from mmtrain.contrastive.spec import ContrastiveSpec
from mmtrain.monitor import steady
from tests.mmtrain.test_learning import prepared

RECIPES = specfile.pipelines() / "train"
NAMES = ("clip", "siglip_naflex")
MARGIN = 0.5
"""Recall at 1, above chance, that held-out shapes are found with, both ways."""


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs(name: str, folder: Path, tmp_path: Path) -> None:
    """Three steps of it, on photographs."""
    path = RECIPES / f"{name}.yaml"
    spec, _ = specfile.load(ContrastiveSpec, str(path), check_paths=False)
    assert spec.steps >= 50
    assert f"mmtrain.contrastive --config pipelines/train/{path.name}" in path.read_text()
    told = [f"data.dataset={folder}", f"output={tmp_path}", "steps=3", "global_batch=6", "evaluation=null"]
    assert main(["--config", str(path), "--set", *told, "data.template=caption"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in lines] == [6, 6, 6]


def _stopped(arguments: list[str], step: int) -> None:
    """The command, killed by itself once it has said a step."""
    from mmtrain import loop, monitor

    def line(values: dict[str, object]) -> str:
        if values["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return monitor.line(values)

    vars(loop)["line"] = line
    main(arguments)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("learn"), "shapes", 1500, 200)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_shapes_are_found_by_their_texts(name: str, shapes: Path, tmp_path: Path) -> None:
    """The whole recipe, killed on its way: the loss falls, and of 24 texts the right one is first at least every second
    time, where chance is one in 24. What was done before and after the kill is what a run alone does."""
    output = tmp_path / "run"
    data = [f"data.dataset={shapes / 'train'}", f"evaluation.data.shapes.dataset={shapes / 'heldout'}"]
    arguments = ["--config", str(RECIPES / f"{name}.yaml"), "--set", *data]
    killed = get_context("forkserver").Process(target=_stopped, args=([*arguments, f"output={output}"], 72))
    killed.start()
    killed.join(900)
    assert killed.exitcode == -signal.SIGKILL
    assert main([*arguments, f"output={output}"]) == 0
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert len(losses) >= 50
    tenth = len(losses) // 10
    assert sum(losses[-tenth:]) < 0.8 * sum(losses[:tenth])
    found = json.loads((output / "evaluations.jsonl").read_text().splitlines()[-1])
    for way in ("text", "image"):
        assert found[f"shapes/{way}_r@1"] >= found[f"shapes/chance_{way}_r@1"] + MARGIN, found
    alone = tmp_path / "alone"
    shorter = ["steps=240", "evaluation=null", f"output={alone}", "checkpoint.every=80"]
    stopped = get_context("forkserver").Process(target=_stopped, args=([*arguments, *shorter], 84))
    stopped.start()
    stopped.join(900)
    kept = [steady(json.loads(line)) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    assert kept == [steady(line) for line in lines[: len(kept)]]
    assert len(kept) > 80
