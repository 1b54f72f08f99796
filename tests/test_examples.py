"""The examples run, stop, go on, and train on what an undisturbed stream has, in its order."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from examples import plain_ddp
from mmdata import StreamingDataset
from mmdata.stream.spec import StreamSpec
from tests.dataset_fixture import write_dataset
from tests.mmtrain import ranks as processes

ROOT = Path(__file__).parents[1]
NEEDS = {
    "torchdata_loader": "torchdata",
    "accelerate_loop": "accelerate",
    "lightning_module": "lightning",
    "hf_trainer": "accelerate",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("examples") / "dataset", samples=10, per_shard=5)


def expected(folder: Path, count: int) -> list[str]:
    stream = StreamingDataset(StreamSpec(dataset=str(folder), epochs=None))
    return [sample.key for sample, _ in zip(stream, range(count), strict=False)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", NEEDS)
def test_an_example_goes_on_where_it_stopped(folder: Path, tmp_path: Path, name: str, workers: int) -> None:
    """Eight steps of two samples over an epoch of ten, in two halves."""
    pytest.importorskip(NEEDS[name], reason=f"pip install mmdata[examples] brings {NEEDS[name]}")
    main = importlib.import_module(f"examples.{name}").main
    run = tmp_path / "run"
    run.mkdir()
    first = main(str(folder), str(run), steps=5, workers=workers)
    second = main(str(folder), str(run), steps=8, workers=workers)
    assert first + second == expected(folder, 16)
    assert len(first) == 10


def torchrun(folder: Path, run: Path, ranks: int, steps: int) -> list[str]:
    """Keys of all ranks, step by step: a line is that of one rank."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*command, "-m", "examples.plain_ddp", str(folder), str(run), str(steps), "1"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [key for line in done.stdout.splitlines() for key in line.split()]


def as_torchrun_starts(folder: Path, run: Path, ranks: int, steps: int) -> list[str]:
    """The same in processes that have imported torch, with what torchrun sets in their environment."""
    said = processes.run(ranks, [str(folder), str(run), str(steps)], run / f"said-{ranks}", _plain_ddp)
    return [key for line in said.splitlines() for key in line.split()]


def _plain_ddp(told: list[str]) -> int:
    print(" ".join(plain_ddp.main(told[0], told[1], int(told[2]), workers=1)))
    return 0


@pytest.mark.parametrize("launched", [as_torchrun_starts, pytest.param(torchrun, marks=pytest.mark.soak)])
def test_ddp_goes_on_with_another_number_of_ranks(
    folder: Path, tmp_path: Path, launched: Callable[[Path, Path, int, int], list[str]]
) -> None:
    """Three steps of four samples on two ranks, two more on one: nothing twice, nothing lost."""
    run = tmp_path / "run"
    run.mkdir()
    first = launched(folder, run, 2, 3)
    second = launched(folder, run, 1, 5)
    assert sorted(first) == sorted(expected(folder, 12))
    assert second == expected(folder, 20)[12:]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 65
