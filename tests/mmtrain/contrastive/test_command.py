"""The command: it learns, survives kills with the same numbers, does on two ranks what it does on one, says what is
wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmtrain.__main__ import main as mmtrain
from mmtrain.contrastive import evaluation, main
from mmtrain.contrastive.evaluation import ZeroShotSpec
from mmtrain.monitor import steady
from tests.dataset_fixture import write_dataset
from tests.mmtrain import ranks

STEPS = 6


def config(folder: Path, output: Path, **more: Any) -> dict[str, Any]:
    """A run with everything in it that a run may have."""
    return {
        "data": {"dataset": str(folder), "epochs": None, "hold_out": 0.3},
        "output": str(output),
        "steps": STEPS,
        "global_batch": 7,
        "pairs_per_forward": 4,
        "tokenizer": {"vocab_size": 300},
        "model": {
            "vision": {"hidden": 16, "layers": 1, "heads": 2, "patch": 16, "table": 4, "max_patches": 9},
            "text": {"hidden": 16, "layers": 1, "heads": 2, "context": 24},
            "projection": 16,
        },
        "loss": {"labels": {"teacher": 0.2}, "regions": {}, "words": {}, "negatives": {}},
        "momentum": {"queue": 10},
        "masking": {"share": 0.4, "until": 0.7},
        "ema": {"decay": 0.9},
        "optim": {"lr": 3.0e-3, "warmup_steps": 2},
        "evaluation": {"every": 3, "k": [1, 5], "zero_shot": {"classes": ["cat", "rocket", "temple"], "k": [1]}},
        "spread": {"every": 2},
        "checkpoint": {"every": 2},
        **more,
    }


def told(path: Path, values: dict[str, Any], *more: str) -> list[str]:
    path.write_text(yaml.safe_dump(values))
    return ["--config", str(path), *more]


def log(output: Path) -> list[dict[str, Any]]:
    return [steady(json.loads(line)) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that was left alone."""
    output = tmp_path_factory.mktemp("contrastive") / "whole"
    assert main(told(output.parent / "whole.yaml", config(folder, output))) == 0
    return output


def test_it_tells_of_each_step(whole: Path) -> None:
    lines = log(whole)
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert all(line["packs"] == line["samples"] == 7 for line in lines)
    assert {"aux/region", "aux/words", "scale", "queued"} <= lines[0].keys()
    assert [line["queued"] for line in lines] == [0, 7, 10, 10, 10, 10]
    assert [line["negatives/weight_2"] for line in lines] == [1, 2, 3, 4, 4, 4]
    assert sum(lines[0][f"negatives/share_{level}"] for level in range(3)) == pytest.approx(1)
    assert "spread/rank" in lines[0]
    assert "spread/rank" not in lines[1]
    found = [json.loads(line) for line in (whole / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in found] == [3, 6]
    names = {"held_out/loss", "held_out/text_r@1", "held_out/chance_image_r@5", "held_out/zero_shot/top@1"}
    assert names <= found[0].keys()


def _until(arguments: list[str], output: str, step: int) -> None:
    """The command, killed by itself once its log has shown a step."""
    from mmtrain import loop, monitor

    line = monitor.line

    def shown(values: Any) -> str:
        if values["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return line(values)

    vars(loop)["line"] = shown
    main(arguments)


def test_a_kill_changes_nothing(folder: Path, whole: Path, tmp_path: Path) -> None:
    """Weights, queue, momentum encoder and order of pairs are those of the run that was left alone."""
    output = tmp_path / "killed"
    arguments = told(tmp_path / "killed.yaml", config(folder, output))
    process = get_context("forkserver").Process(target=_until, args=(arguments, str(output), 3))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert main(arguments) == 0
    assert log(output) == log(whole)
    name = f"checkpoints/step-{STEPS:08d}"
    for file in ("model.safetensors", "parts.safetensors", "optimizer.safetensors"):
        assert (output / name / file).read_bytes() == (whole / name / file).read_bytes(), file


def test_two_ranks_do_what_one_does(folder: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "ranks"
    ranks.run(2, told(tmp_path / "ranks.yaml", config(folder, output)), tmp_path, main)
    for mine, expected in zip(log(output), log(whole), strict=True):
        assert mine["keys_crc32c"] == expected["keys_crc32c"]
        for name, value in expected.items():
            if isinstance(value, float) and not name.startswith(("grad_norm", "spread/top1")):
                assert mine[name] == pytest.approx(value, rel=2e-4, abs=2e-4), name
    ours, theirs = (
        [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
        for folder in (output, whole)
    )
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine["held_out/loss"] == pytest.approx(expected["held_out/loss"], rel=1e-4)


def test_a_finished_run_is_measured(
    folder: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last checkpoint, by the same numbers as while it was trained; and the command is one of mmtrain's."""
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy, symlinks=True)
    assert mmtrain(["contrastive", *told(tmp_path / "copy.yaml", config(folder, copy)), "--evaluate"]) == 0
    said = capsys.readouterr().out
    found = json.loads((whole / "evaluations.jsonl").read_text().splitlines()[-1])
    for name in ("held_out/loss", "held_out/text_r@1"):
        shown = re.search(rf"^{re.escape(name)} +(\S+)$", said, re.M)
        assert shown, said
        assert float(shown[1]) == pytest.approx(found[name], abs=1e-4)


def test_classes_are_read_from_meta_or_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The longest name in the text; or a field, whose samples without one are left out; and a class that no sample is
    of is told."""
    told_by_text = ZeroShotSpec(classes=("cat", "ginger cat", "rocket"))
    said = ["a ginger cat looks", "one cat", "a dog"]
    assert [evaluation._kind(told_by_text, None, text) for text in said] == [1, 0, -1]
    meta: dict[int, dict[str, object]] = {number: {"label": "cat" if number % 2 else "dog"} for number in range(8)}
    labelled = write_dataset(tmp_path / "labelled", 12, meta=meta)
    values = config(labelled, tmp_path / "run", steps=1, momentum=None, loss={}, masking={})
    values["data"].pop("hold_out")
    zero_shot = {"classes": ["cat", "dog"], "k": [1], "field": "label"}
    values["evaluation"] = {"data": {"all": {"dataset": str(labelled)}}, "zero_shot": zero_shot}
    assert main(told(tmp_path / "labels.yaml", values)) == 0
    found = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text())
    assert found["all/zero_shot/chance_top@1"] == 0.5
    right = found["all/zero_shot/top@1"] * 8  # of the 8 that have a label, not of all 12
    assert right == round(right)
    values |= {"output": str(tmp_path / "other")}
    values["evaluation"]["zero_shot"] = {"classes": ["bird", "fish"]}
    assert main(told(tmp_path / "none.yaml", values)) == 2
    assert "evaluation.zero_shot.classes: no sample of all is of any of them" in capsys.readouterr().err


def test_the_plan_writes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "planned"
    assert main(told(tmp_path / "plan.yaml", config(folder, output), "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "step   7 pairs; 1 ranks, about 7 each in 2 passes" in said
    assert not output.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"loss": {"labels": {"teacher": 0.2}}, "momentum": None}, "there is no teacher without `momentum`"),
        ({"loss": {"kind": "sigmoid", "negatives": {"hardest": 2}}}, "loss.negatives.hardest"),
        ({"loss": {"negatives": {"levels": [0.5, 0.4]}}}, "cosines between levels ascend"),
        ({"distributed": {"mode": "fsdp"}}, "towers are whole on each rank"),
        ({"evaluation": {"zero_shot": {"classes": ["a", "b"], "templates": ["no place"]}}}, "has not one place"),
        ({"modle": {}}, "model"),
    ],
)
def test_mistakes_are_told(
    more: dict[str, Any], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(told(tmp_path / "wrong.yaml", config(folder, tmp_path / "wrong", **more))) == 2
    assert message in capsys.readouterr().err
