"""The recipes of video and of image tokens: each resumes exactly and exports, and the unified one draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from examples.learn import judge, make, moving
from mmdata import build
from mmtrain import checkpoint, export, loop, sft, tokenize_images
from mmtrain.models.native import NativeForConditionalGeneration
from tests.mmtrain.test_head_recipes import built as both_built
from tests.mmtrain.test_head_recipes import held

ROOT = Path(__file__).parents[2]
LEARN, RECIPES = ROOT / "examples" / "learn", ROOT / "pipelines" / "train"


def built(folder: Path, task: str, names: tuple[str, ...] = ("train", "heldout"), spec: str = "build.yaml") -> None:
    for name in names:
        told = [
            "--set",
            f"source.path={folder / task / name}.jsonl",
            "--output",
            str(folder / "data" / f"{task}_{name}"),
        ]
        assert build.main(["--spec", str(LEARN / spec), *told, "--quiet"]) == 0


def filmed(folder: Path, task: str, train: int, heldout: int) -> list[str]:
    """Videos of a task; what a recipe is told of them."""
    moving.main([str(folder), "--only", task, "--train", str(train), "--heldout", str(heldout)])
    built(folder, task)
    data = folder / "data"
    return [f"data.dataset={data / f'{task}_train'}", f"evaluation.data.{task}.dataset={data / f'{task}_heldout'}"]


def worded(folder: Path, train: int, heldout: int, *tokeniser: str) -> list[str]:
    """Shapes, and them as words of a tokeniser; what the recipe is told of them."""
    make.main([str(folder), "--only", "shapes", "--train", str(train), "--heldout", str(heldout)])
    data = folder / "data"
    built(folder, "shapes")
    told = [f"dataset={data / 'shapes_train'}", f"heldout={data / 'shapes_heldout'}", f"output={folder / 'tokeniser'}"]
    line = ["train", "--config", str(LEARN / "tokeniser.yaml"), "--set", *told, *tokeniser]
    assert tokenize_images.main(line) == 0
    for name in ("train", "heldout"):
        line = ["encode", str(folder / "tokeniser"), "--dataset", str(data / f"shapes_{name}")]
        assert tokenize_images.main([*line, "--output", str(folder / "words" / f"{name}.jsonl")]) == 0
    built(folder, "words", spec="words_build.yaml")
    return [f"data.datasets.0.path={data / 'words_train'}", f"data.datasets.1.path={data / 'shapes_train'}"]


def run(recipe: str, told: list[str], output: Path, *more: str) -> int:
    return sft.main(["--config", str(RECIPES / f"{recipe}.yaml"), "--set", *told, f"output={output}", *more])


@pytest.mark.parametrize(
    "recipe",
    ["video_llm", pytest.param("long_video", marks=pytest.mark.soak), pytest.param("unified", marks=pytest.mark.soak)],
)
def test_a_recipe_resumes_exactly_and_exports(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after two of three steps it comes to the same weights, and these are what is exported."""
    if recipe == "unified":
        told = worded(tmp_path, 12, 4, "steps=2")
    else:
        told = filmed(tmp_path, {"video_llm": "moving", "long_video": "order"}[recipe], 12, 4)
        told += ["evaluation.every=9", "evaluation.generate=1"]
    told += ["steps=3", "checkpoint.every=2", "global_batch=1", "packs_per_forward=1"]
    assert run(recipe, told, tmp_path / "whole") == 0
    real = loop.advance

    def until(job: loop.Job, batches: list[loop.Batch], *take: Any) -> loop.Step:
        if job.step == 2:
            raise KeyboardInterrupt
        return real(job, batches, *take)

    monkeypatch.setattr(loop, "advance", until)
    assert run(recipe, told, tmp_path / "cut") == 130
    monkeypatch.setattr(loop, "advance", real)
    assert run(recipe, told, tmp_path / "cut") == 0
    one, other = (load_file(checkpoint.found(tmp_path / name)[-1] / "model.safetensors") for name in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert export.main([str(tmp_path / "cut"), "--output", str(tmp_path / "model")]) == 0
    exported = NativeForConditionalGeneration.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(exported[name], other[name]) for name in other)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_what_a_shape_does_is_told(tmp_path: Path) -> None:
    """Of 200 held-out videos four in five are told right, word by word; a guess is right once in six."""
    told = filmed(tmp_path, "moving", 2000, 200)
    assert run("video_llm", told, tmp_path / "run") == 0
    last = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()[-1])
    assert last["moving/exact_match"] >= 0.8, last


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_long_videos_are_learned_resumed_and_exported(tmp_path: Path) -> None:
    """Sixty steps by which the loss falls, as if never stopped after thirty."""
    moving.main([str(tmp_path), "--only", "order", "--train", "400", "--heldout", "20"])
    held("long_video.yaml", both_built(tmp_path, "order", "build.yaml"), "order", tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_the_unified_recipe_draws_what_it_is_asked_for(tmp_path: Path) -> None:
    """The tokeniser gives held-out pictures back at 22 dB and uses more than nine in ten of its codes; of 64 pictures
    that the model draws, by pixels alone, half are of the right form (a guess is one in four) and half of the right
    colour (one in six)."""
    told = worded(tmp_path, 2000, 200)
    worth = json.loads((tmp_path / "tokeniser" / "worth.json").read_text())
    assert worth["psnr"] >= 22, worth
    assert worth["used"] > 0.9, worth
    assert run("unified", told, tmp_path / "run") == 0
    line = ["generate", str(tmp_path / "run"), "--tokeniser", str(tmp_path / "tokeniser"), "--count", "64"]
    line += ["--data", str(tmp_path / "data" / "words_heldout"), "--output", str(tmp_path / "drawn")]
    assert tokenize_images.main(line) == 0
    drawn = [json.loads(line) for line in (tmp_path / "drawn" / "pictures.jsonl").open()]
    seen = [judge.what(Image.open(tmp_path / "drawn" / each["picture"])).split() for each in drawn]
    wanted = [each["wanted"].split() for each in drawn]
    forms = sum(a[-1:] == b[-1:] for a, b in zip(seen, wanted, strict=True)) / len(drawn)
    colours = sum(a[1:2] == b[1:2] for a, b in zip(seen, wanted, strict=True)) / len(drawn)
    assert forms >= 0.5, (forms, colours)
    assert colours >= 0.5, (forms, colours)
