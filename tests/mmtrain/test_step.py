"""One step is one step, however its packs share passes and ranks: equal loss, equal gradients (training.md, 11)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.mmtrain.gradients import main
from tests.mmtrain.ranks import run
from tests.mmtrain.test_distributed import without_rank
from tests.mmtrain.test_sft import arguments, trace


def gradients(ranks: int, file: Path, told: list[str]) -> list[torch.Tensor]:
    """Of the only step of a run on so many real processes."""
    if ranks == 1:
        assert main([str(file), *told]) == 0
    else:
        run(ranks, [str(file), *told], file.parent / "said", main)
    (step,) = torch.load(file)
    return list(step)


def test_accumulation_and_ranks_change_nothing(folder: Path, tmp_path: Path) -> None:
    """Four packs in one pass, in four, and in two on each of two ranks: loss and gradients within 1e-6."""
    told = ["--set", "steps=1", "global_batch=4", "optim.clip=null", "data.max_length=120"]
    found = {}
    for accumulation, ranks in [(1, 1), (4, 1), (2, 2)]:
        output = tmp_path / f"{accumulation}-{ranks}"
        packs = 4 // (accumulation * ranks)
        options = arguments(folder, output, *told, f"packs_per_forward={packs}")
        step = gradients(ranks, tmp_path / f"{accumulation}-{ranks}.pt", options)
        found[accumulation, ranks] = step, trace(output)[0]
    expected, line = found.pop((1, 1))
    assert max(float(gradient.abs().max()) for gradient in expected) > 1e-3
    for step, other in found.values():
        assert without_rank(other) == without_rank(line)
        assert other["loss"] == pytest.approx(line["loss"], abs=1e-6)
        assert len(step) == len(expected)
        for one, two in zip(step, expected, strict=True):
            assert float((one - two).abs().max()) <= 1e-6
