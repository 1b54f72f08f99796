"""Two tasks: captions of photographs, and short texts without any. One config for all runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmtrain import checkpoint, run, sft
from tests.dataset_fixture import write_dataset
from tests.mmtrain.test_sft import CONFIG, SMALL


@pytest.fixture(scope="package")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("balance")
    return [
        write_dataset(folder / "caption", samples=12),
        write_dataset(folder / "text", samples=12, text_only=range(12)),
    ]


def arguments(tasks: list[Path], output: Path, *more: str, weighted: bool = False) -> list[str]:
    weight = ", weight: 1" if weighted else ""
    datasets = ", ".join(f"{{path: {path}{weight}}}" for path in tasks)
    small = [word for word in SMALL if not word.startswith("data.")]
    data = f"data={{datasets: [{datasets}], max_length: 160, epochs: null}}"
    told = [*small, data, "steps=6", "checkpoint.every=3", "checkpoint.keep=9"]
    return ["--config", str(CONFIG), "--set", *told, f"output={output}", *more]


def twice(told: list[str], output: Path, step: int) -> Path:
    """Run to the end; then again in another folder from the checkpoint after `step`, as if the run had been killed
    there. Answers that folder."""
    assert sft.main(told) == 0
    again = output.with_name(f"{output.name}-again")
    shutil.copytree(output, again, symlinks=True)
    (again / run.DONE).unlink()
    for saved in checkpoint.found(again):
        if checkpoint.step_of(saved) > step:
            shutil.rmtree(saved)
    latest = again / "checkpoints" / "latest"
    latest.unlink()
    latest.symlink_to(checkpoint.found(again)[-1].name)
    assert sft.main([word.replace(f"output={output}", f"output={again}") for word in told]) == 0
    return again
