"""From a spike in a log to the picture that made it, in one command, on a run with one planted sample."""

from __future__ import annotations

import base64
import json
import re
import shlex
from pathlib import Path

import pytest

from mmdata import forget, open_dataset
from mmtrain import replay, run, sft
from mmtrain.restore import restore
from mmtrain.spikes import Spike
from mmtrain.suspects import forget_lines, ranked
from tests.building import build, folder_of_pictures, write_spec

GARBAGE = "zq xv 77 kj wq 93 vv zx qk 41 xj zz 08 wv kq <b>"
POISONED = 17


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one's own pictures under captions that are alike, but for one that is garbage."""
    root = tmp_path_factory.mktemp("poisoned")
    pictures = folder_of_pictures(root / "pictures", 40)
    for number, file in enumerate(sorted(pictures.glob("*.txt"))):
        file.write_text(GARBAGE if number == POISONED else "a smooth field of many colours without a number")
    build(write_spec(root / "spec.yaml", {"kind": "folder", "path": str(pictures)}, [{"kind": "probe"}]))
    return root / "out"


@pytest.fixture(scope="module")
def trained(poisoned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("suspects") / "run"
    config = Path(__file__).parents[2] / "pipelines" / "sft_tiny.yaml"
    told = ["steps=28", "checkpoint.every=10", "global_batch=2", "data.max_length=96", "tokenizer.vocab_size=300"]
    told += ["model.vision.hidden=32", "model.language.hidden=64", "optim.lr=0.005"]
    told += [f"data.dataset={poisoned}", f"output={output}"]
    assert sft.main(["--config", str(config), "--set", *told]) == 0
    return output


def test_one_command_from_the_log_to_the_picture(
    trained: Path, poisoned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the door: the spikes, their sample, its source row, its picture and losses, and what removes it."""
    monkeypatch.chdir(tmp_path)
    before = {str(path): path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    (key,) = (sample.key for sample in open_dataset(poisoned) if sample.texts[0].text.startswith("zq"))
    log = {line["step"]: line for line in run.log_lines(trained)}
    capsys.readouterr()
    assert replay.main([str(trained), "--spikes"]) == 0
    shown = capsys.readouterr().out
    steps = [int(number) for number in re.findall(r"^step (\d+): ", shown, re.MULTILINE)]
    assert 25 in steps  # the fourth epoch's; its loss is ten times that of the steps around it
    assert re.findall(r"^  \* (\w+) ", shown, re.MULTILINE) == [key] * len(steps)
    assert shown.count("the keys of the log; weights after") == len(steps)
    assert f"[{POISONED:04d}.jpg row " in shown
    page = (tmp_path / "run-spikes.html").read_text()
    assert f"<h1>Step {steps[0]}</h1>" in page
    assert page.index(f'<span class="break">{key}</span>') < page.index("makes half of the leap") + 2000
    assert base64.b64decode(re.findall(r"data:image/webp;base64,([^\"]+)", page)[0]).startswith(b"RIFF")
    assert f"from {POISONED:04d}.jpg row " in page
    assert "<b>" not in page  # the caption's
    assert re.search(r'class="token hot" style="--heat: 1\.0" title="loss \d', page)
    forgotten = shlex.split(re.findall(r"^forget (.*)$", shown, re.MULTILINE)[0])
    assert forgotten[:3] == ["python", "-m", "mmdata.forget"]
    assert {str(path): path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before
    # What a sample adds is an exact division of the leap.
    found = replay.replay(restore(trained, step=25), 25)
    case = ranked(Spike(step=25, loss=log[25]["loss"], expected=0.5, score=9.0), found)
    assert sum(each.excess for each in case.ranked) == pytest.approx(log[25]["loss"] - 0.5, abs=1e-5)
    assert (case.ranked[0].sample.key, case.blamed, case.spread) == (key, 1, False)
    assert len(case.ranked[0].sample.tokens) == case.ranked[0].item.tokens
    # And the command that was printed does what it says.
    assert forget.main(forgotten[3:]) == 0
    assert [stone.key for removal in open_dataset(poisoned).removals() for stone in removal.stones] == [key]
    for step in (3, 25):  # the run's own epochs keep it in its place
        assert replay.main([str(trained), "--packs", str(step)]) == 0
    again = replay.replay(restore(trained, step=11), 11, forward="never")
    assert (again.logged, again.weights) == (True, 0)


def test_the_steps_that_stand_out_most_where_none_leaps(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a number, as many steps, spikes or not; where all samples are high alike, none is to blame."""
    calm = [line | {"loss": 2.0 + 0.001 * (line["step"] % 3)} for line in run.log_lines(trained)]
    monkeypatch.setattr(run, "log_lines", lambda folder: calm)
    assert replay.main([str(trained), "--spikes"]) == 0
    assert "no step leaps out; --spikes N looks at the N" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert replay.main([str(trained), "--spikes", "1", "--forward", "never", "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\nstep ") + shown.startswith("step ") == 1
    assert "NOT the weights of that step" in shown
    assert page.exists()


def test_samples_that_are_high_alike_are_not_blamed(trained: Path) -> None:
    found = replay.replay(restore(trained, step=20), 20, forward="never")
    case = ranked(Spike(step=20, loss=9.0, expected=0.0, score=9.0), found)
    assert (case.spread, case.suspects, forget_lines([case])) == (True, [], [])
    assert "so no sample is to blame" in " ".join(" ".join(case.lines()).split())


def test_packs_are_streamed_again_and_compared(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "packs"
    assert replay.main([str(trained), "--packs", "8..12", "--output", str(output)]) == 0
    assert "5 of 5 steps compared" in capsys.readouterr().out
    lines = [json.loads(line) for line in (output / "replay.jsonl").read_text().splitlines()]
    logged = {line["step"]: line["keys_crc32c"] for line in run.log_lines(trained)}
    assert {line["step"]: line["keys_crc32c"] for line in lines} == {step: logged[step] for step in range(8, 13)}
    assert len(list(output.glob("*.npz"))) == sum(len(line["arrays_crc32c"]) for line in lines) == 10
    assert replay.main([str(trained), "--packs", "8..x"]) == 2
    assert "steps: '8..x'; write A..B" in capsys.readouterr().err


def test_a_folder_without_a_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay.main([str(tmp_path), "--spikes"]) == 2
    assert "holds no log of a run" in capsys.readouterr().err
