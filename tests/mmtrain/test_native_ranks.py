"""Fusion, experts, the Q-Former's objectives, towers that are held, stop early or leave something to chance, on two
ranks, of which one has fewer packs, replicated and sharded: the steps that one rank takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmtrain import sft
from tests.mmtrain import ranks
from tests.mmtrain.test_native_connectors import IDLE, QFORMER, SMALL, command
from tests.mmtrain.test_sft import trace

PERCEIVER = {"kind": "perceiver", "tokens": 3, "layers": 1, "heads": 2, "head_width": 8}
FUSED = {
    "connector": PERCEIVER,
    "fusion": {"kind": "gated", "every": 1},
    "experts": {"kind": "routed", "count": 4, "top_k": 2},
}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fused": (FUSED, {}),
    "qformer": ({"connector": QFORMER, "objective": "qformer"}, {"parameters": IDLE}),
    "drawn": ({"vision": {**SMALL, "layers": 2, "mixup": 0.5, "layer": -2}, "modality_dropout": {"picture": 0.4}}, {}),
    "anchored": (
        {"vision": {**SMALL, "positions": "bias", "max_grid": 4}},
        {"anchor": {"features": {"kind": "kl"}, "attention": {}}},
    ),
}


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", MODELS)
def test_two_ranks_take_the_steps_of_one(name: str, mode: str, folder: Path, tmp_path: Path) -> None:
    model, more = MODELS[name]
    more = {**more, "steps": 2, "global_batch": 3, "optim": {"lr": 1.0e-3, "warmup_steps": 0}}
    assert sft.main(command(tmp_path / "one", folder, model, **more)) == 0
    ranks.run(2, command(tmp_path / "two", folder, model, **more, distributed={"mode": mode}), tmp_path / "said")
    mine, theirs = trace(tmp_path / "one"), trace(tmp_path / "two")
    assert len(mine) == len(theirs) == 2
    for one, two in zip(mine, theirs, strict=True):
        for key in {"loss", "grad_norm", *(each for each in one if each.startswith("aux/"))}:
            assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-7), key
