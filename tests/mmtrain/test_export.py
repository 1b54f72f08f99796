"""What a run exports computes what it computed: of its best checkpoint, of trained weights alone, of averaged ones, of
weights in 4 bits, merged or beside; and what is not there any more is named."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForImageTextToText

from mmtrain import adapters, checkpoint, export, sft
from mmtrain.restore import restore
from tests.mmtrain.hf_folders import write_folder
from tests.mmtrain.test_models import config

IMAGE_PIXELS = 28
LORA = {"kind": "lora", "component": "language", "rank": 2, "alpha": 32}
CONNECTOR = [{"match": r"connector\..*", "train": True}]
FAST = {"lr": 0.02, "warmup_steps": 0}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Of one picture between words."""
    image = model.config.image_token_id
    tokens = torch.tensor([[9, *[image] * 4, 11, 12, 13]])
    pixels = torch.randn(1, 3, IMAGE_PIXELS, IMAGE_PIXELS, generator=torch.Generator().manual_seed(0))
    result: torch.Tensor = model.eval()(input_ids=tokens, pixel_values=pixels.to(model.dtype), use_cache=False).logits
    return result.float()


def opened(run: Path, at: str = "latest", **how: Any) -> Any:
    return export.open_model(run, export.chosen(run, at), **how)[0]


def loaded(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def exported(run: Path, name: str, *more: str) -> Path:
    output = run.parent / name
    assert export.main([str(run), "--output", str(output), *more]) == 0
    return output


def merged_and_beside(run: Path, *more: str) -> None:
    """Both ways give what the run computes, and peft loads the adapters beside."""
    expected = logits(opened(run))
    whole = logits(loaded(exported(run, "whole", *more)))
    assert (whole - expected).abs().max() < 1e-5
    beside = exported(run, "beside", "--adapters", "keep", *more)
    plain = loaded(beside)
    assert (logits(plain) - expected).abs().max() > 1e-4
    theirs = peft.PeftModel.from_pretrained(loaded(beside), beside / "adapters")
    assert (logits(theirs) - expected).abs().max() < 1e-5
    adapters.attach(plain, beside / "adapters")
    assert torch.equal(logits(plain), expected)


def test_trained_weights_find_the_others(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A LoRA and a connector, averaged, saved alone: exported with what the run began with, wherever it lies now."""
    source = write_folder(tmp_path / "source", "llava")
    told = {
        "adapters": [LORA],
        "parameters": CONNECTOR,
        "initialise": [{"match": r"vision\..*embedding.*", "how": "normal"}],  # never trained, and not as in the folder
        "checkpoint": {"weights": "trained", "every": 2},
        "ema": {"decay": 0.5},
        "optim": FAST,
        "steps": 4,
    }
    assert sft.main(config(tmp_path, folder, {"kind": "hf", "path": str(source)}, **told)) == 0
    run = tmp_path / "run"
    (file,) = checkpoint.found(run)[-1].glob("model*")
    assert file.stat().st_size < 0.2 * (source / "model.safetensors").stat().st_size
    merged_and_beside(run)
    raw, averaged = logits(opened(run, weights="raw")), logits(opened(run))
    assert (raw - averaged).abs().max() > 1e-4
    assert (logits(loaded(exported(run, "raw", "--weights", "raw"))) - raw).abs().max() < 1e-5
    # It goes on beside what the rules for beginnings made, too.
    arguments = config(tmp_path, folder, {"kind": "hf", "path": str(source)}, **told)
    again = ["--set", f"output={tmp_path / 'again'}", "--resume", str(checkpoint.found(run)[0])]
    assert sft.main([*arguments, *again]) == 0
    assert torch.equal(logits(opened(tmp_path / "again")), averaged)
    # The same run saves everything, and is exported alike.
    (tmp_path / "all").mkdir()
    told["checkpoint"] = {"weights": "all", "every": 2}
    assert sft.main(config(tmp_path / "all", folder, {"kind": "hf", "path": str(source)}, **told)) == 0
    assert torch.equal(logits(opened(tmp_path / "all" / "run")), averaged)

    source.rename(tmp_path / "moved")
    capsys.readouterr()
    assert export.main([str(run), "--output", str(tmp_path / "no")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds trained weights only" in line
    assert "no such folder" in line
    assert "--base FOLDER" in line
    there = exported(run, "found", "--base", str(tmp_path / "moved"))
    assert (logits(loaded(there)) - averaged).abs().max() < 1e-5
    from tests.mmtrain.tiny_models import make

    make("llava", seed=1).save_pretrained(tmp_path / "moved")
    assert export.main([str(run), "--output", str(tmp_path / "no"), "--base", str(tmp_path / "moved")]) == 2
    assert "beside others" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_the_best_checkpoint(folder: Path, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "llava")
    told = {
        "data": {"hold_out": 0.2},
        "evaluation": {"every": 1},
        "checkpoint": {"every": 1, "keep": 9},
        "optim": {**FAST, "lr": 100.0},  # too much: it gets worse
        "steps": 3,
    }
    assert sft.main(config(tmp_path, folder, {"kind": "hf", "path": str(source)}, **told)) == 0
    run = tmp_path / "run"
    best = json.loads((run / "checkpoints" / "best.json").read_text())["step"]
    assert best < 3
    found = logits(loaded(exported(run, "best", "--checkpoint", "best")))
    assert torch.equal(found, logits(opened(run, str(best))))
    assert not torch.equal(found, logits(opened(run)))


def test_a_mix_of_kinds_is_kept_and_not_merged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LoRA on attention, bottlenecks in the tower's first layers, a prefix: what cannot be weights is named, in a line;
    beside the weights it computes the same, and what peft lacks is said."""
    source = write_folder(tmp_path / "source", "llava")
    mix = [
        {**LORA, "targets": "attention"},
        {"kind": "bottleneck", "component": "vision", "layers": [0, 1], "hidden": 4},
        {"kind": "prefix", "component": "language", "length": 3, "std": 0.5},
    ]
    told = {"adapters": mix, "optim": FAST, "steps": 3}
    assert sft.main(config(tmp_path, folder, {"kind": "hf", "path": str(source)}, **told)) == 0
    run = tmp_path / "run"
    assert "packed by varlen" in capsys.readouterr().out
    assert export.main([str(run), "--output", str(tmp_path / "no")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be merged: vision." in line
    assert "a bottleneck is not linear" in line
    assert "--adapters keep" in line
    assert not (tmp_path / "no").exists()
    beside = exported(run, "beside", "--adapters", "keep")
    assert "bottleneck: peft has no such adapters" in capsys.readouterr().out
    plain, expected = loaded(beside), logits(opened(run))
    assert (logits(plain) - expected).abs().max() > 1e-3
    adapters.attach(plain, beside / "adapters")
    assert torch.equal(logits(plain), expected)


@pytest.mark.soak
@pytest.mark.parametrize("params", ["fp32", "bf16"])
def test_stages_that_save_trained_weights(params: str, folder: Path, tmp_path: Path) -> None:
    """Connector, then a LoRA, then the same LoRA on: as the recipe that saves everything, at every stage."""
    source = write_folder(tmp_path / "source", "llava")
    stages = [
        {"name": "align", "parameters": [{"match": r"(vision|language|head)\..*", "train": False}]},
        {"name": "teach", "adapters": [LORA]},
        {"name": "more", "adapters": [LORA], "optim": {**FAST, "lr": 0.01}},
    ]
    found = {}
    for saved in ("all", "trained"):
        (tmp_path / saved).mkdir()
        told = {"stages": stages, "optim": FAST, "checkpoint": {"weights": saved}, "params": params}
        told["precision"] = "fp32" if params == "fp32" else "bf16"
        arguments = config(tmp_path / saved, folder, {"kind": "hf", "path": str(source)}, **told)
        assert sft.main(arguments) == 0
        runs = sorted((tmp_path / saved / "run").iterdir())
        assert [run.name for run in runs] == ["01-align", "02-teach", "03-more"]
        found[saved] = [logits(opened(run).float()) for run in runs]
        again = [logits(restore(run).model.float().eval()) for run in runs]  # as replay and evaluate open it
        assert all(torch.equal(a, b) for a, b in zip(again, found[saved], strict=True))
        whole = loaded(exported(runs[-1], "whole")).float()
        assert (logits(whole) - found[saved][-1]).abs().max() < (1e-5 if params == "fp32" else 0.05)
    assert all(torch.equal(a, b) for a, b in zip(found["all"], found["trained"], strict=True))
    assert not torch.equal(found["all"][1], found["all"][2])
    (tmp_path / "trained" / "run" / "01-align").rename(tmp_path / "elsewhere")
    last = tmp_path / "trained" / "run" / "03-more"
    assert export.main([str(last), "--output", str(tmp_path / "no")]) == 2


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_weights_in_4_bits(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Merged into what the run computed with; or beside the weights in full, for whoever loads those in 4 bits."""
    source = write_folder(tmp_path / "source", "llava")
    told = {"adapters": [{**LORA, "kind": "qlora"}], "checkpoint": {"every": 2}, "optim": FAST, "steps": 4}
    arguments = config(tmp_path, folder, {"kind": "hf", "path": str(source)}, **told)
    assert sft.main(arguments) == 0
    run = tmp_path / "run"
    expected = logits(opened(run))
    whole = loaded(exported(run, "whole"))
    assert (logits(whole) - expected).abs().max() < 1e-4
    assert all(parameter.dtype == torch.float32 for parameter in whole.parameters())
    capsys.readouterr()
    beside = exported(run, "beside", "--adapters", "keep")
    assert "load those in 4 bits" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(loaded(beside).parameters(), loaded(source).parameters(), strict=True))
    theirs = peft.PeftModel.from_pretrained(loaded(beside), beside / "adapters")
    in_full = logits(opened(run, full=True))
    assert (logits(theirs) - in_full).abs().max() < 1e-5
    assert 0 < (in_full - expected).abs().max() < 0.5  # that of 4 bits
    # A run that is killed goes on: the weights are made again from the source.
    assert (
        sft.main([*arguments, "--set", f"output={tmp_path / 'again'}", "--resume", str(checkpoint.found(run)[0])]) == 0
    )
    assert torch.equal(logits(opened(tmp_path / "again")), expected)
    assert sft.main([*arguments, "--set", f"output={tmp_path / 'no'}", "checkpoint.weights=all"]) == 2
    assert "are not saved but made from `model` again" in capsys.readouterr().err
