"""Auxiliary losses: recorded by modules, weighed by the config, the same however a step is dealt."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmdata import registry
from mmdata.errors import SpecError
from mmtrain import sft
from mmtrain.auxiliary import Term, declared, record, recording, summed, totals, units
from tests.mmtrain.test_sft import arguments


class Talker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.auxiliary = {"talk": Term(weight=0.5, per="token"), "tell": Term(weight=1.0, per="sample")}


def test_what_is_declared_takes_the_configs_weights() -> None:
    model = nn.Sequential(Talker(), nn.Linear(2, 2))
    assert declared(model)["talk"] == Term(weight=0.5, per="token")
    assert declared(model, {"talk": 3.0})["talk"].weight == 3.0
    with pytest.raises(SpecError, match=r"auxiliary\.tolk: .* 'talk'"):
        declared(model, {"tolk": 1.0})
    with pytest.raises(SpecError, match="none"):
        declared(nn.Linear(2, 2), {"talk": 1.0})


def test_units_count_where_something_is_trained() -> None:
    batch: dict[str, Any] = {"cu_seq_lens_q": torch.tensor([0, 2, 5, 6])}
    weights = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 2.0])
    terms = {
        "a": Term(weight=1.0, per="token"),
        "b": Term(weight=1.0, per="sample"),
        "c": Term(weight=1.0, per="pack"),
    }
    found = units(None, batch, weights, terms)
    assert {name: value.tolist() for name, value in found.items()} == {
        "sample": [1, 0, 1],
        "token": [1, 1, 0, 0, 0, 1],
        "pack": [3.0],
    }
    assert totals([found, found])[:4] == [0.0, 6.0, 4.0, 6.0]
    assert units(None, batch, weights, {}) == {}


def test_sums_leave_out_what_does_not_count_and_average_modules() -> None:
    terms = {"a": Term(weight=1.0, per="sample")}
    weights: dict[Any, torch.Tensor] = {"sample": torch.tensor([1.0, 0.0, 1.0])}
    x = torch.tensor([1.0, 100.0, 3.0], requires_grad=True)
    record("a", x)  # nobody listens
    with recording() as found:
        record("a", x)
        record("a", 3 * x)
    value = summed(terms, found, weights)["a"]
    assert float(value) == 2 * (1.0 + 3.0)
    value.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 0.0, 2.0]
    with pytest.raises(ValueError, match=r"a: \[\(2,\)\] values for 3 units \(sample\)"):
        summed(terms, {"a": [x[:2]]}, weights)
    with pytest.raises(ValueError, match="no module declares it"):
        summed({}, found, weights)


PLUGIN = """
from mmdata import register
from mmtrain.auxiliary import loss


@register("loss", "calm")
@loss(weight=0.01, per="token")
def calm(hidden, labels, batch):
    assert len(hidden) == len(labels) == batch["input_ids"].numel()
    return hidden.square().mean(-1)
"""


def test_a_users_loss_is_learned_by_its_name(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plugin's loss, named under `auxiliary`, is logged and falls when it weighs much; an unknown name is told."""
    (tmp_path / "losses.py").write_text(PLUGIN)
    told = arguments(folder, tmp_path / "run", "--set", "steps=3", f"plugins=[{tmp_path}/losses.py]")
    assert sft.main([*told, "auxiliary.clam=1"]) == 2
    assert "did you mean 'calm'?" in capsys.readouterr().err
    assert sft.main([*told, "auxiliary.calm=100"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [line["aux/calm"] for line in lines]
    assert logged[0] == pytest.approx(1.0, rel=0.1), "the last norm makes rows of mean square 1"
    assert logged[2] < logged[1] < logged[0]
    (tmp_path / "losses.py").write_text(PLUGIN.replace("square", "abs"))
    registry._plugins.clear()
    for name in [name for name in sys.modules if name.startswith("mmdata_plugin_losses_")]:
        del sys.modules[name]
    assert sft.main([*told, "auxiliary.calm=100", "steps=4"]) == 2
    assert "plugins" in capsys.readouterr().err
