"""Typical mistakes in a config: one clear line that names the key and what to do, before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mmtrain import sft
from tests.mmtrain.hf_folders import write_folder

TOLD = {
    "model": {"vision": {"hidden": 16, "layers": 1, "heads": 2}, "language": {"hidden": 16, "layers": 1, "heads": 2}},
    "tokenizer": {"vocab_size": 300},
    "steps": 2,
    "evaluation": {"every": 1},
}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "llava", "llava")


@pytest.mark.parametrize(
    ("wrong", "code", "told"),
    [
        ("optim.learning_rate=1", 2, "optim.learning_rate: 1: unknown key; known: "),
        ("optim.lr=-1", 2, "optim.lr: -1: Input should be greater than 0"),
        ("optim.betas=[0.9, 1]", 2, "optim.betas[1]: 1: Input should be less than 1"),
        ("optim.clip={{visoin: 1}}", 2, "optim.clip: no part 'visoin' is trained; did you mean 'vision'?"),
        (
            "optim.schedule=[{{until: 0.01}}, {{curve: linear, to: 0}}]",
            2,
            "optim.schedule.0: it ends at step 0 of 2 and",
        ),
        ("seed=18446744073709551616", 2, "seed: 18446744073709551616: Input should be less than"),
        (
            "early_stopping.metric=held_out/anls",
            2,
            "early_stopping.metric: held_out/anls: evaluation.metrics has no anls",
        ),
        ("steps=0", 2, "steps: 0: Input should be greater than or equal to 1"),
        (
            "data.hold_out=0",
            2,
            "  evaluation.data: nothing to evaluate on; name held-out datasets there, or set data.hold",
        ),
        ("data.hold_out=1.0e-9", 2, "evaluation.data.held_out: hold_out: 1e-09 holds nothing out that fits; raise it"),
        ("data.max_length=8", 1, "overlong; data.max_length is 8: raise it"),
        ("data.template=captoin", 2, "no template is called 'captoin'; known: caption, "),
        ("data.dataset={tmp}", 1, "not a dataset made by mmdata.build; build one first: python -m mmdata.build --spec"),
        ("data.dataset={tmp}/none", 2, "data.dataset: "),
        ("output={tmp}/sft.yaml", 2, "sft.yaml is a file; give the run a folder of its own"),
        ("output={llava}", 2, "llava holds other files than a run's; choose another folder"),
        ("output={folder}", 2, "is a dataset; give the run a folder of its own"),
        (
            "model={{kind: hf, path: {llava}, family: lava}}",
            2,
            "model.family: no family is called 'lava'; did you mean",
        ),
        ("model={{kind: hf, path: {tmp}/none}}", 2, "model.path: no such folder: "),
        (
            "adapters=[{{kind: lora, component: audio}}]",
            2,
            "adapters.0.component: no 'audio' in this model; its parts are",
        ),
        ("adapters=[{{kind: lora, component: head, targets: [q]}}]", 2, "adapters.0.targets: no module 'q' there"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    folder: Path, llava: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], wrong: str, code: int, told: str
) -> None:
    data = {"dataset": str(folder), "max_length": 128, "hold_out": 0.3, "epochs": None}
    config = tmp_path / "sft.yaml"
    config.write_text(yaml.safe_dump({**TOLD, "data": data, "output": str(tmp_path / "run")}))
    change = wrong.format(tmp=tmp_path, folder=folder, llava=llava)
    assert sft.main(["--config", str(config), "--set", change]) == code
    said = capfd.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert "architectures" in (llava / "config.json").read_text()


@pytest.mark.parametrize("number", ["-1", "0", "two"])
def test_packs_to_look_at_are_counted_from_one(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        sft.main(["--config", "sft_tiny", "--inspect", number])
    assert f"{number}: give a number from 1 on" in capsys.readouterr().err


def test_a_dry_run_refuses_what_the_optimiser_would(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "sft.yaml"
    data = {"dataset": str(folder), "max_length": 128, "hold_out": 0.3, "epochs": None}
    config.write_text(yaml.safe_dump({**TOLD, "data": data, "output": str(tmp_path / "run")}))
    told = ["--config", str(config), "--dry-run", "--set"]
    assert sft.main([*told, "optim.clip={visoin: 1}"]) == 2
    assert "optim.clip: no part 'visoin' is trained" in capsys.readouterr().err
    assert sft.main([*told, "data.epochs=2", "steps=99"]) == 0
    assert re.search(
        r"run    99 steps = 396 packs = \d+\.\d epochs; data.epochs: 2 ends it before", capsys.readouterr().out
    )
    assert sft.main([*told, "optim.warmup_steps=3"]) == 0
    assert "rates  rise over 3 steps (optim.warmup_steps), and the run ends before the peak" in capsys.readouterr().out
