"""Drift: 1 for a tower that is frozen, less for one that learns, measured from the beginning also after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmtrain import sft
from mmtrain.monitor import steady
from tests.mmtrain.test_monitor import log
from tests.mmtrain.test_sft import arguments

WATCH = ["steps=4", "checkpoint.every=2", "watch.drift={every: 1, samples: 2}"]


def drifts(output: Path) -> list[float]:
    return [line["drift/vision"] for line in log(output)]


def test_a_tower_that_learns_goes_away_and_a_frozen_one_stays(folder: Path, tmp_path: Path) -> None:
    assert sft.main(arguments(folder, tmp_path / "all", "--set", *WATCH)) == 0
    found = drifts(tmp_path / "all")
    assert all(0 < each < 1 for each in found)
    assert found[-1] < found[0]
    frozen = "parameters=[{match: 'vision.*', train: false}]"
    assert sft.main(arguments(folder, tmp_path / "frozen", "--set", *WATCH, frozen)) == 0
    assert drifts(tmp_path / "frozen") == pytest.approx([1.0] * 4, abs=1e-6)

    shutil.rmtree(tmp_path / "all" / "checkpoints" / "step-00000004")
    assert sft.main(arguments(folder, tmp_path / "all", "--set", *WATCH)) == 0
    assert drifts(tmp_path / "all") == found  # what it began with comes from the checkpoint

    plain = [each for each in WATCH if "drift" not in each]
    assert sft.main(arguments(folder, tmp_path / "plain", "--set", *plain)) == 0
    without = [{n: v for n, v in steady(line).items() if n != "drift/vision"} for line in log(tmp_path / "all")]
    assert without == [steady(line) for line in log(tmp_path / "plain")]  # the training knows nothing of it
