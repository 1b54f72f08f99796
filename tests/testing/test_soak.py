"""The soak, small: nothing is lost over kills, damaged media and a failing web; and it would be told if it were."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmdata.testing.soak.figures import Figures, Tally, opened
from mmdata.testing.soak.kills import compare, content
from mmdata.testing.soak.media import at_rest
from tests import forked

COMMAND = [sys.executable, "-m", "mmdata.testing.soak", "--cycles", "3", "--media", "181", "--fast", "--seed", "3"]
SOAKED = ("build", "stream", "web", "media")
"""All but the trainer, which takes as long as the others: `make soak` kills it, and tests/mmtrain/test_sft.py does."""


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--folder", str(folder), *more], capture_output=True, text=True, timeout=500, check=False
    )


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak") / "soak"
    done = run(folder, "--only", *SOAKED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "losses                     0\n" in done.stdout
    return folder


def test_nothing_is_lost(soaked: Path) -> None:
    figures = opened(soaked, {"seed": 3})
    assert figures.cycles == 2
    assert [figures.part(name).done for name in ("build", "stream", "trainer")] == [1, 1, 0]
    assert all(figures.part(name).counts["finished"] >= 1 for name in ("build", "stream"))
    media = figures.part("media")
    assert (media.done, media.counts["arrived"], media.counts["detected_at_rest"]) == (181, 181, 181)
    assert media.counts["refused"] > 100
    assert figures.part("web").done >= 40
    assert (figures.sum("losses"), figures.sum("duplicates"), figures.sum("undetected")) == (0, 0, 0)


@pytest.mark.soak
def test_run_again_it_has_nothing_to_do_and_another_seed_is_refused(soaked: Path) -> None:
    before = json.loads((soaked / "soak.json").read_text())["parts"]
    again = run(soaked, "--json", "--only", *SOAKED)
    assert again.returncode == 0, again.stderr
    assert {name: part for name, part in json.loads(again.stdout)["parts"].items() if part["done"]} == before
    other = run(soaked, "--seed", "4")
    assert other.returncode == 2
    assert "holds a soak of seed 3" in other.stderr


def test_without_time_it_says_so(tmp_path: Path) -> None:
    told = [*COMMAND[3:], "--folder", str(tmp_path / "soak"), "--minutes", "0"]
    assert forked.run("mmdata.testing.soak.__main__", *told, torch=True).returncode == 3


@pytest.mark.soak
def test_a_reader_that_checks_nothing_would_be_found(
    soaked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmdata.shards import dataset

    monkeypatch.setattr("mmdata.testing.soak.media.open_dataset", lambda path: dataset.Dataset(path, integrity="off"))
    tally = Tally()
    at_rest(soaked / "dataset", tmp_path / "copy", tally, 30, 0)
    assert tally.undetected > 0
    assert "is read" in tally.problems[0]
    assert content(tmp_path / "copy") == content(soaked / "dataset")


def test_what_is_lost_is_counted() -> None:
    tally = Tally()
    compare(tally, "x", ["a", "b", "c"], ["a", "c", "c"])
    assert (tally.losses, tally.duplicates, tally.undetected) == (1, 1, 0)
    compare(tally, "x", ["a", "b"], ["b", "a"])
    assert (tally.undetected, tally.problems[-1]) == (1, "x: the order differs")
    assert Figures(told={}, parts={"stream": tally}).sum("losses") == 1
