"""The command: it learns, it survives kill -9 with the same trace, and it says what is wrong."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmdata import rng
from mmtrain import checkpoint, run, sft
from mmtrain.monitor import steady
from mmtrain.optim import OptimSpec
from mmtrain.spec import TrainSpec

CONFIG = Path(__file__).parents[2] / "pipelines" / "sft_tiny.yaml"
SMALL = [
    "steps=9",
    "checkpoint.every=2",
    "global_batch=2",
    "data.max_length=160",
    "tokenizer.vocab_size=400",
    "model.vision.hidden=32",
    "model.language.hidden=64",
]


def arguments(folder: Path, output: Path, *more: str) -> list[str]:
    return ["--config", str(CONFIG), "--set", *SMALL, f"data.dataset={folder}", f"output={output}", *more]


def trace(output: Path) -> list[dict[str, Any]]:
    whole = (output / "metrics.jsonl").read_text().rpartition("\n")[0]
    lines = [json.loads(line) for line in whole.splitlines()]
    return [steady(line) for line in lines]


def same_weights(run: Path, other: Path) -> bool:
    a, b = (load_file(checkpoint.found(folder)[-1] / "model.safetensors") for folder in (run, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sft") / "run"
    assert sft.main(arguments(folder, output)) == 0
    return output


def test_the_log_tells_the_run(uninterrupted: Path) -> None:
    lines = trace(uninterrupted)
    assert [line["step"] for line in lines] == list(range(9))
    assert all(line["packs"] == 2 and 0 < line["targets"] < line["tokens"] <= 320 for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert list((uninterrupted / "tensorboard").glob("events*"))
    assert [path.name for path in checkpoint.found(uninterrupted)] == ["step-00000008", "step-00000009"]


def _run_and_die(told: list[str], step: int, seconds: float) -> None:
    """The command, killed by itself a moment after its log has shown a step: no other process has to be in time."""
    torch.set_num_threads(1)  # as the tests, whose runs have to be equal bit for bit
    write, dying = run.Log.write, threading.Event()

    def die() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    def written(self: run.Log, values: dict[str, Any]) -> None:
        write(self, values)
        if values["step"] >= step and not dying.is_set():  # on a quick machine it may have gone past the step before
            dying.set()
            threading.Thread(target=die).start()

    run.Log.write = written  # type: ignore[method-assign]
    sft.main(told)
    if dying.is_set():
        threading.Event().wait()
    die()


def killed(told: list[str], output: Path, step: int, seconds: float) -> int:
    """Run the command on what is there, and kill -9 it so long after its log shows a step; how many steps it shows.

    A fork of a server that has imported everything and done nothing, which saves the imports."""
    started = multiprocessing.get_context("forkserver")
    started.set_forkserver_preload(["mmtrain.sft", __name__])
    process = started.Process(target=_run_and_die, args=(told, step, seconds))
    process.start()
    process.join(300)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return len(trace(output))


def kill_at_random(told: list[str], output: Path, kills: int, steps: int) -> None:
    """Kill a run so often, each time at another step and another moment in it, and then let it end."""
    draw = rng.generator("kills", kills)
    for step in sorted(draw.choice(steps - 3, kills, replace=False).tolist()):
        assert killed(told, output, step, float(draw.uniform(0, 0.1))) > step
    assert sft.main(told) == 0


def test_killed_at_random_steps_the_trace_is_the_same(folder: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """The same keys and the same loss at every step, and the same weights in the end."""
    kill_at_random(arguments(folder, tmp_path / "run"), tmp_path / "run", kills=4, steps=9)
    assert trace(tmp_path / "run") == trace(uninterrupted)
    assert same_weights(tmp_path / "run", uninterrupted)


@pytest.mark.soak
def test_killed_at_twenty_random_steps_the_trace_is_the_same(folder: Path, tmp_path: Path) -> None:
    longer = ["--set", "steps=30", "checkpoint.every=3"]
    assert sft.main(arguments(folder, tmp_path / "whole", *longer)) == 0
    kill_at_random(arguments(folder, tmp_path / "run", *longer), tmp_path / "run", kills=20, steps=30)
    assert trace(tmp_path / "run") == trace(tmp_path / "whole")
    assert len({line["keys_crc32c"] for line in trace(tmp_path / "run")}) > 20
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_resume_from_a_named_checkpoint(
    folder: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = checkpoint.found(uninterrupted)[0]
    assert sft.main(arguments(folder, tmp_path / "run", "--resume", str(older))) == 0
    assert trace(tmp_path / "run") == trace(uninterrupted)[8:]
    assert same_weights(tmp_path / "run", uninterrupted)
    assert sft.main(arguments(folder, uninterrupted, "--resume", str(older))) == 2
    assert "went on to step-00000009" in capsys.readouterr().err


def test_a_finished_run_is_left_as_it_is(folder: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = trace(uninterrupted)
    assert sft.main(arguments(folder, uninterrupted)) == 0
    assert "nothing left to do: 9 of 9" in capsys.readouterr().out
    assert trace(uninterrupted) == before


def test_another_config_in_the_same_folder_is_refused(
    folder: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft.main(arguments(folder, uninterrupted, "--set", "optim.lr=0.5", "seed=3")) == 2
    shown = capsys.readouterr().err
    assert "optim.lr: 0.003 -> 0.5" in shown
    assert "seed: 0 -> 3" in shown


def test_never_starts_over_but_not_in_a_strange_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert sft.main(arguments(folder, output, "--set", "steps=2")) == 0
    (output / "stream" / "skips.jsonl").write_text("what the run before knew")
    assert (output / "stream" / "anchors-0.jsonl").exists()
    (output / "stream" / "anchors-0.jsonl").write_text("")
    assert sft.main(arguments(folder, output, "--resume", "never", "--set", "steps=3")) == 0
    assert [line["step"] for line in trace(output)] == [0, 1, 2]
    assert not (output / "stream" / "skips.jsonl").exists()
    assert (output / "stream" / "anchors-0.jsonl").stat().st_size
    strange = tmp_path / "strange"
    (strange / "checkpoints").mkdir(parents=True)
    assert sft.main(arguments(folder, strange, "--resume", "never")) == 2
    assert "holds other files" in capsys.readouterr().err
    assert (strange / "checkpoints").exists()


def test_a_dry_run_writes_nothing_and_inspect_a_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft.main(arguments(folder, tmp_path / "run", "--dry-run")) == 0
    shown = capsys.readouterr().out
    assert "36 samples" in shown
    assert "9 steps = 18 packs" in shown
    assert sft.main(arguments(folder, tmp_path / "run", "--inspect", "2")) == 0
    shown = capsys.readouterr().out
    assert shown.count("pack of ") == 2
    assert "</s>'" in shown
    page = tmp_path / "run" / "inspect.html"
    assert list((tmp_path / "run").iterdir()) == [page]
    text = page.read_text()
    assert text.count("<h1>Step") == 2
    assert text.count('class="segment') == text.count("data:image/webp") > 2
    assert 'class="token trained"' in text
    assert "position 0" in text
    other = tmp_path / "other.html"
    assert sft.main(arguments(folder, tmp_path / "never", "--inspect", "1", "--html", str(other))) == 0
    assert other.read_text().count("<h1>Step") == 1
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["stepz=3"], "did you mean 'steps'"),
        (["model.language.hidden=65"], "multiple of 2 \\* heads"),
        (["data.dataset=/nowhere"], "no such file or folder: /nowhere"),
        (["steps=0", "global_batch=0"], "2 mistakes"),
    ],
)
def test_mistakes_are_told_in_one_message(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    assert sft.main(arguments(folder, tmp_path / "run", "--set", *change)) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_stream_that_ends_first_ends_the_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft.main(arguments(folder, tmp_path / "run", "--set", "data.epochs=1", "steps=50")) == 0
    shown = capsys.readouterr().out
    steps = len(trace(tmp_path / "run"))
    assert f"the stream ended after {steps} steps" in shown
    assert checkpoint.found(tmp_path / "run")[-1].name == f"step-{steps:08d}"


def test_a_damaged_checkpoint_is_named(folder: Path, uninterrupted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint.found(uninterrupted)[-1], copy)
    (copy / "optimizer.safetensors").unlink()
    assert sft.main(arguments(folder, tmp_path / "run", "--resume", str(copy))) == 2


def test_two_do_not_train_in_one_folder(
    folder: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    shutil.copytree(uninterrupted, output, symlinks=True)
    other = os.open(output, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    before = sorted(output.rglob("*"))
    for resume in ("auto", "never"):
        assert sft.main(arguments(folder, output, "--resume", resume)) == 1
        assert "another process trains in it" in capsys.readouterr().err
    assert sorted(output.rglob("*")) == before
    os.close(other)
    assert sft.main(arguments(folder, output)) == 0
    assert sft.main(arguments(folder, output)) == 0


def test_a_cache_that_cannot_be_written_stops_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert sft.main(arguments(folder, tmp_path / "run", "--set", "steps=1")) == 0
    assert "the certificate is not kept" in capsys.readouterr().out


def test_a_damaged_line_of_the_log_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / run.METRICS
    path.write_bytes(b'{"step": 0, "loss": 2.0}\n' + bytes(40) + b'\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    assert [line["step"] for line in run.log_lines(tmp_path)] == [0, 2]
    run.Log(tmp_path, 2).close()
    assert path.read_text() == '{"step": 0, "loss": 2.0}\n'


def test_the_schema_of_the_shipped_config_is_the_spec() -> None:
    first = CONFIG.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../schemas/train.schema.json"
    assert set(TrainSpec.model_json_schema()["properties"]) >= {"data", "model", "optim", "steps", "output"}
    assert OptimSpec().lr > 0
