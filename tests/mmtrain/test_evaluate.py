"""The command: a run and what is exported of it are alike; speed and size; what is wrong is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText

from mmtrain import evaluate, export, sft
from mmtrain.answers import continued, generating, inputs_of, prompts
from mmtrain.examine import read
from mmtrain.held_out import held_out
from mmtrain.models import family_of
from mmtrain.restore import restore
from tests.mmtrain.hf_folders import write_folder
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


def test_a_model_with_prefixes_answers_and_is_measured_with_its_adapters(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word by word as by peft; and the folder with adapters beside the model is as good as the run."""
    source, output, exported = write_folder(tmp_path / "source", "llava"), tmp_path / "run", tmp_path / "exported"
    config = {
        "model": {"kind": "hf", "path": str(source)},
        "adapters": [{"kind": "prefix", "component": "language", "length": 3, "std": 2.0}],
        "data": {"dataset": str(folder), "max_length": 400, "hold_out": 0.3, "epochs": None},
        "evaluation": {"generate": 2, "max_new_tokens": 5},
        "output": str(output),
        "optim": {"lr": 0.5, "warmup_steps": 0},
        "steps": 2,
    }
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(config))
    assert sft.main(["--config", str(tmp_path / "sft.yaml")]) == 0
    assert export.main([str(output), "--output", str(exported), "--adapters", "keep"]) == 0
    plain = AutoModelForImageTextToText.from_pretrained(exported)
    theirs = peft.PeftModel.from_pretrained(plain, exported / "adapters").eval()
    opened, cpu = restore(output), torch.device("cpu")
    spec, model = opened.spec, opened.model.eval()
    assert spec.evaluation is not None
    (stream,) = held_out(spec.evaluation, spec, family_of(spec.model, opened.tokenizer)).values()
    with torch.no_grad(), generating(model):
        for packed, _, _ in prompts(stream, 2):
            ids, prompt = continued(model, packed, 5, cpu), inputs_of(packed, cpu)
            for at, token in enumerate(ids):
                whole = torch.cat([prompt["input_ids"], torch.tensor([ids[:at]], dtype=torch.long)], 1)
                assert int(theirs(input_ids=whole, pixel_values=prompt["pixel_values"]).logits[0, -1].argmax()) == token
    given = ["--generate", "0", "--data", f"x={folder}"]
    of_run, of_folder, bare = (found(capsys, str(each), *given)["values"] for each in (output, exported, source))
    assert of_folder == pytest.approx(of_run, abs=1e-5)
    assert bare["loss"] != pytest.approx(of_run["loss"], abs=1e-3)
