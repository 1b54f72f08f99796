"""The command on a GPU: it computes what the CPU does, in every precision, and goes on after a stop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mmtrain import sft

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CONFIG = Path(__file__).parents[2] / "pipelines" / "sft_tiny.yaml"
SMALL = [
    "steps=12",
    "checkpoint.every=4",
    "global_batch=2",
    "data.max_length=160",
    "tokenizer.vocab_size=400",
    # 32 wide heads: kernels of attention take multiples of 8.
    "model.vision.hidden=64",
    "model.vision.heads=2",
    "model.language.hidden=64",
    "model.language.heads=2",
]


def trace(folder: Path, output: Path, *more: str) -> list[dict[str, Any]]:
    told = ["--config", str(CONFIG), "--set", *SMALL, f"data.dataset={folder}", f"output={output}", *more]
    assert sft.main(told) == 0
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def on_cpu(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return trace(folder, tmp_path_factory.mktemp("cpu") / "run", "device=cpu")


@pytest.mark.parametrize(
    ("told", "within"),
    [
        ((), 1e-3),
        (("precision=bf16",), 2e-2),
        (("precision=bf16", "params=bf16"), 5e-2),
        (("precision=fp16",), 1e-2),
        (("precision=bf16", "activation_checkpointing=full"), 2e-2),
        (("precision=bf16", "packs_per_forward=2"), 2e-2),
        (("precision=bf16", "compile=true"), 2e-2),
    ],
    ids=lambda value: " ".join(value) or "fp32" if isinstance(value, tuple) else "",
)
def test_a_run_is_what_the_cpu_makes_of_it(
    told: tuple[str, ...], within: float, folder: Path, on_cpu: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The same packs at every step, and losses that differ by rounding."""
    found = trace(folder, tmp_path / "run", "device=cuda", *told)
    assert [line["keys_crc32c"] for line in found] == [line["keys_crc32c"] for line in on_cpu]
    assert all(math.isfinite(line["grad_norm"]) for line in found)
    worst = max(abs(a["loss"] - b["loss"]) for a, b in zip(found, on_cpu, strict=True))
    assert worst <= within * on_cpu[0]["loss"], worst


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_stopped_run_goes_on(precision: str, folder: Path, tmp_path: Path) -> None:
    """Sums of kernels may come in another order, so the losses are equal but for rounding."""
    whole = trace(folder, tmp_path / "whole", "device=cuda", f"precision={precision}")
    saved = tmp_path / "whole" / "checkpoints" / "step-00000008"
    told = ["--config", str(CONFIG), "--set", *SMALL, f"data.dataset={folder}", f"output={tmp_path / 'rest'}"]
    assert sft.main([*told, "device=cuda", f"precision={precision}", "--resume", str(saved)]) == 0
    rest = [json.loads(line) for line in (tmp_path / "rest" / "metrics.jsonl").read_text().splitlines()]
    assert [line["keys_crc32c"] for line in rest] == [line["keys_crc32c"] for line in whole[8:]]
    for one, other in zip(rest, whole[8:], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-3)
