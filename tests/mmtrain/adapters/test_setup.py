"""Adapters through the command: every kind learns, goes on as if it had not stopped, and is written down."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from mmtrain import adapters, checkpoint, export, sft
from tests.mmtrain import ranks
from tests.mmtrain.test_sft import arguments, trace

LANGUAGE = {"component": "language"}
KINDS: dict[str, list[dict[str, Any]]] = {
    "lora": [{"kind": "lora", **LANGUAGE, "rank": 4, "dropout": 0.1}],
    "rslora": [{"kind": "rslora", **LANGUAGE, "rank": 4, "init": "orthogonal"}],
    "dora": [{"kind": "dora", **LANGUAGE, "targets": "attention", "last": 1}],
    "ia3": [{"kind": "ia3", **LANGUAGE}, {"kind": "ia3", "component": "vision"}],
    "prefix": [{"kind": "prefix", **LANGUAGE, "length": 4}],
    "bottleneck": [
        {"kind": "bottleneck", **LANGUAGE, "hidden": 8, "mode": "parallel", "targets": "mlp"},
        {"kind": "bottleneck", "component": "vision", "hidden": 8},
    ],
    "hybrid": [
        {"kind": "dora", **LANGUAGE, "targets": "attention", "rank": 4, "dropout": 0.1},
        {"kind": "lora", "component": "connector", "rank": 2, "init": "pissa"},
        {"kind": "prefix", **LANGUAGE, "length": 2},
        {"kind": "bottleneck", "component": "vision", "hidden": 4, "last": 1},
    ],
}
SHORT = ["steps=4", "checkpoint.every=2", "optim.lr=0.02", "optim.warmup_steps=0"]


def told(folder: Path, output: Path, entries: list[dict[str, Any]], *more: str) -> list[str]:
    return arguments(folder, output, "--set", *SHORT, f"adapters={json.dumps(entries)}", *more)


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapters.safetensors")


def same(run: Path, other: Path) -> bool:
    a, b = tensors(run), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["hybrid", *(pytest.param(k, marks=pytest.mark.soak) for k in KINDS if k != "hybrid")])
def test_every_kind_learns_and_goes_on(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole"
    assert sft.main(told(folder, whole, KINDS[kind])) == 0
    shown = capsys.readouterr().out
    assert "adapter in all:" in shown
    assert "check  LlavaForConditionalGeneration: packed by varlen" in shown
    assert f"wrote  {whole / 'adapter'}: adapters" in shown
    lines = trace(whole)
    assert kind == "ia3" or lines[-1]["loss"] < lines[0]["loss"]  # factors alone teach an untrained model little
    assert all(len(tensor.unique()) > 1 for name, tensor in tensors(whole).items() if name.endswith(("scale", "up")))
    middle = checkpoint.found(whole)[0]
    assert checkpoint.step_of(middle) == 2
    assert sft.main(told(folder, tmp_path / "again", KINDS[kind], "--resume", str(middle))) == 0
    assert trace(tmp_path / "again") == lines[2:]
    assert same(tmp_path / "again", whole)


def test_a_dry_run_shows_where_they_go(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = json.dumps([{"match": "connector.*", "train": True}, {"match": r"language\.layers\.0\..*", "lora_rank": 2}])
    assert sft.main(told(folder, tmp_path / "run", KINDS["lora"], f"parameters={rules}", "--dry-run")) == 0
    shown = capsys.readouterr().out
    assert "adapter language: lora in 14 modules, rank 2 to 4, " in shown
    assert "% of the model" in shown
    assert shown.count("frozen") == 3  # vision, language, head
    assert not (tmp_path / "run").exists()


def test_ranks_follow_importance_and_are_kept(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = 'adapter_ranks={"budget": 40, "batches": 2, "most": 16}'
    whole = tmp_path / "whole"
    assert sft.main(told(folder, whole, KINDS["lora"], measured)) == 0
    assert "Fisher trace" in capsys.readouterr().out
    kept = json.loads((whole / "adapter_ranks.json").read_text())
    assert sum(entry["rank"] for entry in kept.values()) == 40
    order = sorted(kept.values(), key=lambda entry: entry["trace"])
    assert [entry["rank"] for entry in order] == sorted(entry["rank"] for entry in order)
    assert order[0]["rank"] < order[-1]["rank"]
    middle = checkpoint.found(whole)[0]
    assert sft.main(told(folder, tmp_path / "again", KINDS["lora"], measured, "--resume", str(middle))) == 0
    assert "Fisher trace" not in capsys.readouterr().out
    assert same(tmp_path / "again", whole)
    assert sft.main(told(folder, tmp_path / "no", KINDS["ia3"], measured)) == 2
    assert "there is no LoRA to give ranks to" in capsys.readouterr().err


def test_what_comes_out_is_the_same_however_it_is_used(folder: Path, tmp_path: Path) -> None:
    """The adapter in the run's folder on the plain model, by us and by peft; and the model with it merged in."""
    run = tmp_path / "run"
    rules = json.dumps([{"match": "connector.*", "train": True}])
    assert sft.main(told(folder, run, KINDS["lora"], f"parameters={rules}")) == 0
    model, _ = export.open_model(run, checkpoint.found(run)[-1])
    image = model.config.image_token_id
    tokens = torch.tensor([[9, *[image] * 16, 11, 12, 13]])
    batch = {"input_ids": tokens, "pixel_values": torch.randn(1, 3, 56, 56)}

    @torch.no_grad()
    def logits(of: Any) -> torch.Tensor:
        result: torch.Tensor = of.eval()(**batch, use_cache=False).logits
        return result

    expected = logits(model)
    plain = copy.deepcopy(model)
    adapters.remove(plain)
    with torch.no_grad():  # what was trained of the model has to come back too
        for parameter in plain.model.multi_modal_projector.parameters():
            parameter.zero_()
    assert (logits(plain) - expected).abs().max() > 1e-3
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(plain), run / "adapter")
    assert (logits(theirs) - expected).abs().max() < 1e-5
    adapters.attach(plain, run / "adapter")
    assert torch.equal(logits(plain), expected)
    assert export.main([str(run), "--output", str(tmp_path / "merged")]) == 0
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert (logits(merged) - expected).abs().max() < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is there")
def test_without_bitsandbytes_qlora_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft.main(told(folder, tmp_path / "run", [{"kind": "qlora", **LANGUAGE}])) == 2
    assert "kind qlora needs bitsandbytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"kind": "lora", **LANGUAGE, "rnk": 3}], "did you mean 'rank'"),
        ([{"kind": "lorra", **LANGUAGE}], "did you mean 'lora'"),
        ([{"kind": "lora"}], "give either `component` or `match`"),
        ([{"kind": "lora", "component": "audio"}], "adapters.0.component: no 'audio' in this model"),
    ],
)
def test_mistakes_are_told(
    entries: list[dict[str, Any]], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft.main(told(folder, tmp_path / "run", entries, "--dry-run")) == 2
    assert message in capsys.readouterr().err


@pytest.mark.soak
def test_shards_of_two_learn_the_same_adapters(folder: Path, tmp_path: Path) -> None:
    """`fully_shard` around layers with adapters in them; what is written is whole."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert sft.main(told(folder, one, KINDS["hybrid"], "steps=2")) == 0
    ranks.run(2, told(folder, two, KINDS["hybrid"], "steps=2", "distributed.mode=fsdp"), tmp_path / "said")
    assert [line["loss"] for line in trace(two)] == pytest.approx([line["loss"] for line in trace(one)], abs=1e-5)
    a, b = tensors(one), tensors(two)
    assert a.keys() == b.keys()
    assert all((a[name] - b[name]).abs().max() < 1e-3 for name in a)
