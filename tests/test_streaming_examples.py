"""The streaming examples: a run that stops and goes on is the run that does not, to the last bit of its losses."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from examples.streaming.tiny import make_tokenizer, open_packs
from tests.dataset_fixture import write_dataset

ROOT = Path(__file__).parents[1]
NEEDS = {
    "plain_pytorch": "torch",
    "hf_trainer": "accelerate",
    "trl_sft": "trl",
    "lightning_fit": "lightning",
    "titan_loop": "torch",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("streaming") / "dataset", samples=12, per_shard=5)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def expected(folder: Path, run: Path, packs: int) -> list[list[str]]:
    stream = open_packs(str(folder), make_tokenizer(str(folder)), str(run))
    return [list(pack.keys) for pack, _ in zip(stream, range(packs), strict=False)]


LOADED = ("hf_trainer", "trl_sft", "lightning_fit")
"""With a DataLoader of torch's; the others have a StreamLoader, whose processes have tests of their own."""
CASES = [(name, 0) for name in NEEDS] + [pytest.param(name, 1, marks=pytest.mark.soak) for name in LOADED]


@pytest.mark.parametrize(("name", "workers"), CASES)
def test_an_example_resumes_exactly(folder: Path, tmp_path: Path, name: str, workers: int) -> None:
    """Four steps of two packs at once, and two and two."""
    pytest.importorskip(NEEDS[name], reason=f"pip install mmdata[examples] brings {NEEDS[name]}")
    main = importlib.import_module(f"examples.streaming.{name}").main
    runs = [tmp_path / "whole", tmp_path / "parted"]
    for run in runs:
        run.mkdir()
    whole = main(str(folder), str(runs[0]), steps=4, workers=workers)
    first = main(str(folder), str(runs[1]), steps=2, workers=workers)
    second = main(str(folder), str(runs[1]), steps=4, workers=workers)
    assert [keys for keys, _ in whole] == expected(folder, runs[0], 8)
    assert len(first) == 4
    assert first + second == whole
    assert whole[-1][1] != whole[0][1]


@pytest.mark.parametrize("path", sorted((ROOT / "examples/streaming").glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 95
