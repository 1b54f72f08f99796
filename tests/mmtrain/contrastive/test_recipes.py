"""The shipped recipes: they load, run, fall, go on after a kill, and find shapes again by their texts."""

from __future__ import annotations

import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, Siglip2Model

from mmdata import specfile
from mmtrain.contrastive import main
from mmtrain.contrastive.build import build, tokenizer_source
from mmtrain.contrastive.pairs import Pairs
from mmtrain.contrastive.spec import ContrastiveSpec
from mmtrain.monitor import steady
from tests.mmtrain.test_learning import prepared

RECIPES = specfile.pipelines() / "train"
NAMES = ("clip", "siglip_naflex")
BASE = {"data": {"dataset": "/"}, "output": "/"}
MARGIN = 0.4
"""Recall at 1, above chance, that held-out shapes are found with, both ways."""


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs(name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three steps of it, on photographs, and what comes out."""
    path = RECIPES / f"{name}.yaml"
    spec, _ = specfile.load(ContrastiveSpec, str(path), check_paths=False)
    assert spec.steps >= 50
    assert f"mmtrain.contrastive --config pipelines/train/{path.name}" in path.read_text()
    told = [f"data.dataset={folder}", f"output={tmp_path}", "steps=3", "global_batch=6", "evaluation=null"]
    assert main(["--config", str(path), "--set", *told, "data.template=caption"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in lines] == [6, 6, 6]
    # SigLIP goes on elsewhere: as Hugging Face's model, from which another run begins.
    export = ["--config", str(path), "--set", *told, "data.template=caption", "--export", str(tmp_path / "model")]
    if name == "clip":
        assert main(export) == 2
        assert "a Siglip2Model has model.projection: null" in capsys.readouterr().err
        return
    assert main(export) == 0
    theirs = Siglip2Model.from_pretrained(tmp_path / "model")
    again = {"model": {"kind": "siglip2", "path": str(tmp_path / "model"), "max_patches": 16}}
    spec = spec.model_copy(update={"model": ContrastiveSpec.model_validate({**BASE, **again}).model})
    assert tokenizer_source(spec.model) == tmp_path / "model" / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model" / "tokenizer")
    ours = build(spec, tokenizer)
    picture = torch.randn(4 * 3, 3 * 8**2)
    text = torch.tensor(tokenizer("a red circle", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id])
    made = ours(Pairs(patches=picture, grids=[(4, 3)], texts=[text], keys=["one"]))
    processor: Any = AutoImageProcessor.from_pretrained(tmp_path / "model")  # type: ignore[no-untyped-call]
    assert processor.max_num_patches == 16
    padded = torch.nn.functional.pad(picture, (0, 0, 0, 4))[None]
    found = theirs(
        input_ids=tokenizer("a red circle</s>", padding="max_length", max_length=16, return_tensors="pt")["input_ids"],
        pixel_values=padded,
        pixel_attention_mask=(torch.arange(16) < 12).long()[None],
        spatial_shapes=torch.tensor([[4, 3]]),
    )
    torch.testing.assert_close(made.pictures, found.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(made.texts, found.text_embeds, rtol=0, atol=1e-5)


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
    """The whole recipe, killed on its way: the loss falls, and of 24 texts the right one is first at least two times in
    five, where chance is one in 24. What was done before and after the kill is what a run alone does."""
    output = tmp_path / "run"
    data = [f"data.dataset={shapes / 'train'}", f"evaluation.data.shapes.dataset={shapes / 'heldout'}"]
    arguments = ["--config", str(RECIPES / f"{name}.yaml"), "--set", *data]
    killed = get_context("forkserver").Process(target=_stopped, args=([*arguments, f"output={output}"], 36))
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
    shorter = ["steps=240", "evaluation=null", f"output={alone}", "checkpoint.every=100"]
    stopped = get_context("forkserver").Process(target=_stopped, args=([*arguments, *shorter], 48))
    stopped.start()
    stopped.join(900)
    kept = [steady(json.loads(line)) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    assert kept == [steady(line) for line in lines[: len(kept)]]
    assert len(kept) > 45
