"""A newcomer's path: the commands of `examples/newcomer/README.md`, as they stand there, from made-up images and a
LLaVA-style JSON to an adapter, a page of its answers and a merged model."""

from __future__ import annotations

import contextlib
import html
import importlib
import io
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from mmdata import specfile
from mmtrain.spec import TrainSpec
from tests.building import ledger

ROOT = Path(__file__).parents[2]
README = (ROOT / "examples" / "newcomer" / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in FENCE.findall(README) if name == language]


def run(line: str) -> str:
    """A command of the README, in this process where it is one of ours; what it printed."""
    words = shlex.split(line)
    if words[:2] != ["python", "-m"]:
        subprocess.run(words, check=True, timeout=60)
        return ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert not importlib.import_module(words[2]).main(words[3:]), said.getvalue()
    return said.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder in which all commands ran, and what each printed."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "examples").symlink_to(ROOT / "examples")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.chdir(folder):
            said = {line: run(line) for block in blocks("bash") for line in block.strip().split("\n")}
    finally:
        torch.set_num_threads(threads)
    return folder / "my_task", said


def test_the_three_commands_are_the_ones_that_the_readme_has() -> None:
    lines = [line for block in blocks("bash") for line in block.strip().split("\n")]
    modules = [shlex.split(line)[2] for line in lines if line.startswith("python")]
    assert modules == ["examples.newcomer.make", "mmdata.build", "mmtrain.sft", "mmtrain.evaluate", "mmtrain.export"]


def test_they_print_what_the_readme_shows(done: Any) -> None:
    """Line by line; `...` stands for what differs."""
    _, said = done
    printed = "\n".join(said.values()).split("\n")
    for line in "".join(blocks("")).strip().split("\n"):
        wanted = ".*".join(re.escape(part) for part in line.split("..."))
        assert any(re.fullmatch(wanted, each) for each in printed), f"{line}\n---\n" + "\n".join(printed)


def test_bad_rows_are_named_in_the_ledger_and_good_ones_kept(done: Any) -> None:
    folder, _ = done
    rows = {row.row: row for row in ledger(folder / "dataset")}
    samples = json.loads((folder / "train.json").read_text())
    found = {samples[n]["id"]: (row.state, row.reason) for n, row in rows.items() if row.state != "ok" and n < 308}
    assert found == {
        "missing": ("failed_permanent", "not_found"),
        "half": ("failed_permanent", "truncated_image"),
        "too-many-places": ("failed_permanent", "bad_record"),
        "elsewhere": ("failed_permanent", "path_escape"),
    }
    assert (rows[308].state, rows[308].reason, rows[308].of) == ("duplicate", "exact_dup", rows[0].key)
    assert len(rows) == len(samples) == 309
    assert {samples[n]["id"] for n, row in rows.items() if row.state == "ok"} >= {
        *("two-turns", "in-the-middle", "two-pictures", "no-picture", "shape-1")
    }


def test_it_learns_and_is_measured_on_what_was_held_out(done: Any) -> None:
    folder, said = done
    losses = [json.loads(line)["loss"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5]), losses
    first, last = (json.loads(line) for line in (folder / "run" / "evaluations.jsonl").read_text().splitlines())
    assert last["held_out/loss"] < first["held_out/loss"]
    evaluated = next(text for line, text in said.items() if "mmtrain.evaluate" in line)
    told = re.search(r"held_out/loss +([\d.]+)", evaluated)
    assert told
    assert float(told[1]) == pytest.approx(last["held_out/loss"], abs=1e-3), "the same adapter, opened again"


def test_the_page_has_pictures_questions_answers_and_references(done: Any) -> None:
    folder, _ = done
    page = html.unescape((folder / "page.html").read_text())
    assert page.count("data:image/") >= 16
    assert page.count("What is in the picture?") >= 14
    samples = {f"{row:09d}": sample for row, sample in enumerate(json.loads((folder / "train.json").read_text()))}
    shown = [key for key in samples if key in page]
    assert len(shown) == 16
    for key in shown:
        assert any(said["value"] in page for said in samples[key]["conversations"] if said["from"] == "gpt"), key
    (answers,) = (folder / "run" / "samples").glob("step-00000030.html")
    assert answers.read_text().count("data:image/") >= 8


def test_the_adapter_loads_with_peft_and_is_what_was_merged(done: Any) -> None:
    folder, _ = done
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapters.json", "adapters.safetensors"):
        assert (folder / "run" / "adapter" / name).is_file(), name
    code: dict[str, Any] = {}
    with contextlib.chdir(folder.parent):
        exec(compile(blocks("python")[0], "README.md", "exec"), code)
    adapted, merged = code["model"].eval(), AutoModelForImageTextToText.from_pretrained(folder / "merged").eval()
    base = AutoModelForImageTextToText.from_pretrained(folder / "model").eval()
    ids = torch.tensor([[1, *[merged.config.image_token_id] * 16, 50, 60, 70]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        found = [model(**inputs).logits for model in (adapted, merged, base)]
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
    assert (found[0] - found[2]).abs().max() > 0.1


def test_the_configs_name_what_is_to_be_changed_and_nothing_unknown() -> None:
    folder = ROOT / "examples" / "newcomer"
    specfile.load_build(str(folder / "build.yaml"), check_paths=False)
    specfile.load(TrainSpec, str(folder / "sft.yaml"), check_paths=False)
    assert "CHANGE" in (folder / "build.yaml").read_text()
    assert "CHANGE" in (folder / "sft.yaml").read_text()
