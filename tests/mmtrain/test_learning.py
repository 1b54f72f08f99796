"""Models of random weights learn real tasks through the commands: build, train, and answers to what was held out.

The tasks are those of `examples/learn`: a guess names a melody once in 125 times and a shape once in 24."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from examples.learn import make
from mmdata import build
from mmtrain import checkpoint, export, sft

LEARN = Path(__file__).parents[2] / "examples" / "learn"


def prepared(
    folder: Path, task: str, train: int, heldout: int, *more: str, read: Collection[str] = ("train", "heldout")
) -> Path:
    """Make a task and build its datasets, of those that are not `read` the first rows; the folder that holds them."""
    make.main([str(folder), "--only", task, "--train", str(train), "--heldout", str(heldout), *more])
    for name in sorted(path.stem for path in (folder / task).glob("*.jsonl")):
        source = folder / task / f"{name}.jsonl"
        told = ["--set", f"source.path={source}", "--output", str(folder / "data" / name), "--quiet"]
        told += [] if name in read else ["--limit", "20"]
        assert build.main(["--spec", str(LEARN / "build.yaml"), *told]) == 0
    return folder / "data"


def trained(task: str, data: Path, output: Path, *more: str) -> dict[str, float]:
    """Train by the task's config; what the last evaluation found."""
    told = [f"data.dataset={data / 'train'}", f"evaluation.data.{task}.dataset={data / 'heldout'}"]
    assert sft.main(["--config", str(LEARN / f"{task}.yaml"), "--set", *told, f"output={output}", *more]) == 0
    last: dict[str, float] = json.loads((output / "evaluations.jsonl").read_text().splitlines()[-1])
    return last


def test_colours_are_seen(tmp_path: Path) -> None:
    """The quick one: circles and their colours, four in five of those that it never saw, where a guess gets one in
    six."""
    data = prepared(tmp_path, "shapes", 500, 60, "--forms", "1")
    short = ["steps=100", "evaluation.every=100", "evaluation.generate=60"]
    found = trained("shapes", data, tmp_path / "run", *short)
    assert found["shapes/exact_match"] > 0.8, found


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_melodies_are_named_packed_and_unpacked_alike(tmp_path: Path) -> None:
    """Nine in ten. And the same samples at every step, in one row with borders or in padded rows of their own, are
    learned alike: which samples share a step decides when a small model sees the light, so that runs that differ in
    it, or in a seed, can be compared at the end alone."""
    data = prepared(tmp_path, "melodies", 2000, 200)
    found = trained("melodies", data, tmp_path / "best_fit")
    assert found["melodies/exact_match"] >= 0.9, found
    alone = ["data.packing=none", "data.batch_rows=6"]
    packed = trained("melodies", data, tmp_path / "packed", *alone, "collate=packed")
    padded = trained("melodies", data, tmp_path / "padded", *alone, "collate=padded")
    assert packed["melodies/exact_match"] >= 0.9, packed
    assert padded["melodies/exact_match"] >= 0.9, padded
    runs = (tmp_path / "packed", tmp_path / "padded")
    for one, other in zip(
        *([json.loads(x) for x in (run / "metrics.jsonl").open()][:100] for run in runs), strict=True
    ):
        assert one["keys_crc32c"] == other["keys_crc32c"]
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)  # rounding moves the weights apart


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_shapes_are_named_and_an_adapter_calls_them_otherwise(tmp_path: Path) -> None:
    """Nine in ten shapes with their colours; then LoRA on language model and head answers in French, nine in ten, and
    no weight of what it was put on has changed by a bit."""
    data = prepared(tmp_path, "shapes", 3000, 200, read=("train", "heldout", "french_train", "french_heldout"))
    found = trained("shapes", data, tmp_path / "run")
    assert found["shapes/exact_match"] >= 0.9, found
    assert export.main([str(tmp_path / "run"), "--output", str(tmp_path / "model")]) == 0
    told = [
        f"data.dataset={data / 'french_train'}",
        f"evaluation.data.french.dataset={data / 'french_heldout'}",
        f"model.path={tmp_path / 'model'}",
        f"output={tmp_path / 'french'}",
    ]
    assert sft.main(["--config", str(LEARN / "french.yaml"), "--set", *told]) == 0
    last = json.loads((tmp_path / "french" / "evaluations.jsonl").read_text().splitlines()[-1])
    assert last["french/exact_match"] >= 0.9, last
    base = load_file(tmp_path / "model" / "model.safetensors")
    after = load_file(checkpoint.found(tmp_path / "french")[-1] / "model.safetensors")
    same = [name for name in base if name in after]
    assert same
    assert all(torch.equal(base[name], after[name]) for name in same)
