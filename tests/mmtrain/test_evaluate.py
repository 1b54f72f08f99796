"""The command: a run and what is exported of it are alike; speed and size; what is wrong is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmtrain import evaluate, export, sft
from mmtrain.examine import read
from tests.mmtrain.test_held_out import told
from tests.mmtrain.test_sft import arguments


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluate") / "run"
    assert sft.main(arguments(folder, output, "--set", "steps=2", *told(folder))) == 0
    return output


def found(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capsys.readouterr()
    assert evaluate.main([*options, "--json"]) == 0
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    return values


def test_a_run_is_evaluated_as_it_was_while_it_trained(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = found(capsys, str(run), "--generate", "2", "--max-new-tokens", "4")
    last = read(run)[-1]
    assert values["values"] == pytest.approx({name: last[name] for name in values["values"]}, abs=1e-6)
    assert values["speed"]["prefill_per_second"] > 0
    assert values["speed"]["decode_per_second"] > 0
    assert values["size"]["bytes"] == 4 * values["size"]["parameters"]


def test_an_exported_model_is_as_good_as_its_run(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported, stream, page = tmp_path / "exported", tmp_path / "stream.yaml", tmp_path / "page.html"
    assert export.main([str(run), "--output", str(exported)]) == 0
    stream.write_text(f"dataset: {folder}\nmax_length: 160\n")
    options = ["--data", f"photos={stream}", "--generate", "2", "--max-new-tokens", "4"]
    values = found(capsys, str(exported), *options, "--html", str(page))
    last = read(run)[-1]
    assert values["values"] == pytest.approx({name: last[name] for name in values["values"]}, abs=1e-5)
    assert values["size"]["bytes_on_disk"] > values["size"]["bytes"]
    assert page.read_text().count("data:image/webp") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nothing"], "write NAME=DATASET"),
        (["--checkpoint", "7"], "7"),
        (["--generate", "-3"], "--generate -3: Input should be greater than or equal to 0"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0: Input should be greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_said(run: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert evaluate.main([str(run), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_strange_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(tmp_path)]) == 2
    assert "neither a run" in capsys.readouterr().err
