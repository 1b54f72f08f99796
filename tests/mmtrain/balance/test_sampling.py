"""Tasks drawn by their losses: entries of the control log, the same after a kill; what does not fit is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdata.stream.control import ControlLog
from mmtrain import run, sft
from tests.mmtrain.balance.conftest import arguments, twice
from tests.mmtrain.test_sft import same_weights, trace

TOLD = ["steps=16", "checkpoint.every=5", "data.block_samples=8", "data.shuffle=global", "packs_per_forward=2"]


def test_the_mixture_follows_the_losses_and_is_the_same_after_a_kill(tasks: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "run"
    how = "balance={kind: sampling, every: 2, temperature: 0.1, smoothing: 0, ahead: 12}"
    again = twice(arguments(tasks, output, how, *TOLD, weighted=True), output, 5)
    lines, entries = trace(output), ControlLog(output / run.STREAM).entries
    assert [entry.note for entry in entries] == [f"after step {step}" for step in range(2, 17, 2)]
    assert lines[0]["weight/caption"] == 0.5
    assert entries[0].losses == {task: lines[1][f"loss/{task}"] for task in ("caption", "text")}
    worse = max(("caption", "text"), key=lambda task: lines[1][f"loss/{task}"])
    assert entries[0].weights[worse] > 1
    assert lines[-1]["weight/caption"] != 0.5
    assert ControlLog(again / run.STREAM).entries == entries
    assert trace(again) == lines
    assert same_weights(again, output)


def test_what_does_not_fit_is_told(tasks: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sft.main(arguments(tasks, tmp_path / "pooled", "balance={kind: sampling}")) == 2
    assert "sampling changes the weights of data.datasets" in capsys.readouterr().err
    how = "balance={kind: sampling, every: 1, ahead: 1}"
    assert sft.main(arguments(tasks, tmp_path / "late", how, *TOLD, weighted=True)) == 1
    assert "is planned already" in (said := capsys.readouterr().err)
    assert "data.block_samples is small beside what is read ahead; raise it, or balance.ahead" in said
