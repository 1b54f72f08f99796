"""A step again, alone: the same samples and losses as the run had, and where what is not finite begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmtrain import replay, sft
from mmtrain.restore import restore
from tests.mmtrain.test_ema import EVERYTHING
from tests.mmtrain.test_gate import TOO_FAST
from tests.mmtrain.test_sft import arguments, trace


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("replay") / "run"
    assert sft.main(arguments(folder, output, "--set", "steps=5")) == 0
    return output


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_step_has_the_losses_that_the_log_has(run: Path) -> None:
    """At a checkpoint the very numbers; the mean over targets is the loss of the step."""
    before = content(run)
    found = replay.replay(restore(run, step=4), 4)
    line = trace(run)[4]
    assert found.logged is True
    assert (found.weights, len(found.samples)) == (4, line["samples"])
    assert sum(each.targets for each in found.samples) == line["targets"]
    mean = sum(each.loss * each.targets for each in found.samples) / line["targets"]
    assert mean == pytest.approx(line["loss"], abs=1e-5)
    assert found.loss == line["loss"]
    assert found.modules == []
    assert content(run) == before


def test_a_step_between_checkpoints_has_its_own_weights(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints are kept of steps 4 and 5: of those before, each is trained up to, from what the run began with; or
    else has those weights, and says so."""
    before = content(run)
    lines = trace(run)
    for step in (1, 3):
        found = replay.replay(restore(run, step=step), step)
        assert (found.weights, found.logged, found.loss) == (step, True, lines[step]["loss"])
    assert content(run) == before
    assert replay.main([str(run), "--step", "2", "--forward", "never"]) == 0
    shown = capsys.readouterr().out
    assert "the keys of the log; weights after 0 steps" in shown
    assert "not the log's, which is of weights after 2: --forward always" in shown
    assert "first not finite: nothing" in shown
    monkeypatch.setattr(replay, "SOON", 0.0)
    assert replay.main([str(run), "--step", "2"]) == 0
    assert "weights after 0 steps" in capsys.readouterr().out
    assert replay.main([str(run), "--step", "2", "--forward", "always"]) == 0
    shown = capsys.readouterr().out
    assert f"weights after 2 steps\nloss {lines[2]['loss']:.6f}\n" in shown


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_all_that_a_run_has_is_trained_again(folder: Path, tmp_path: Path, precision: str) -> None:
    """From a checkpoint: moments, phases, layers that thaw, dropout of adapters, a loss scale that overflows."""
    lora = r"adapters=[{kind: lora, match: 'language\..*_proj', rank: 2, dropout: 0.3}]"
    more = [*EVERYTHING, f"precision={precision}", lora, "checkpoint.every=2", "checkpoint.weights=trained"]
    rules = r"parameters=[{match: 'connector\..*', train: true, freeze_until: 0.5}]"
    assert sft.main(arguments(folder, tmp_path, "--set", *more, rules, "steps=6")) == 0
    found = replay.replay(restore(tmp_path, step=5), 5)
    assert restore(tmp_path, step=5).step == 4
    assert (found.weights, found.logged, found.loss) == (5, True, trace(tmp_path)[5]["loss"])
    assert found.modules == []


def test_a_quarantined_step_says_where_it_broke(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, page = tmp_path / "run", tmp_path / "page.html"
    once = ["checkpoint.every=3"]  # what broke it is between checkpoints
    assert sft.main(arguments(folder, output, "--set", "steps=3", *TOO_FAST, *once)) == 0
    capsys.readouterr()
    assert replay.main([str(output), "--quarantine", "1", "--html", str(page)]) == 3
    shown = capsys.readouterr().out
    assert "step 2: " in shown
    assert "the keys of the log; weights after 2 steps" in shown
    keys = [key for line in (output / "quarantine.jsonl").read_text().splitlines() for key in json.loads(line)["keys"]]
    for key in keys[len(keys) // 2 :]:
        assert key in shown
        assert f'<span class="break">{key}</span>' in page.read_text()
    assert shown.count("<- not finite") == shown.count(" targets ")
    assert "first not finite: the output of " in shown


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["--step", "5"], "the run has steps 0 to 4"),
        (["--step", "-1"], "the run has steps 0 to 4"),
        (["--step", "400", "--set", "data.epochs=1", "steps=500"], "the stream ends"),
        (["--quarantine", "0"], "left out 0 steps"),
    ],
)
def test_what_is_not_there_is_said(
    run: Path, capsys: pytest.CaptureFixture[str], told: list[str], message: str
) -> None:
    assert replay.main([str(run), *told]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([str(tmp_path), "--step", "0"]) == 2
    assert "holds no run" in capsys.readouterr().err
