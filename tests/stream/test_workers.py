"""Plain torch DataLoaders: one order for any number of workers and way to start them, from anywhere in the run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from mmdata import StreamingDataset
from mmdata.errors import SpecError
from mmdata.families import Family
from mmdata.stream.spec import StreamSpec

G = 2


def stream(folder: Path, family: Family, run: Path | None = None) -> StreamingDataset:
    spec = StreamSpec(dataset=str(folder), max_length=128, seed=5, block_samples=10)
    return StreamingDataset(spec, family=family, global_batch=G, run_folder=run)


def keys(packs: Any) -> list[tuple[str, ...]]:
    return [pack.keys for pack in packs]


@pytest.fixture(scope="module")
def whole(folder: Path, family: Family) -> list[list[tuple[str, ...]]]:
    """Three epochs."""
    running = stream(folder, family)
    found = []
    for epoch in range(3):
        running.set_epoch(epoch)
        found.append(keys(running))
    return found


@pytest.mark.parametrize(
    ("method", "workers"),
    [
        ("fork", 1),
        ("fork", 2),
        ("forkserver", 1),
        *(pytest.param(*each, marks=pytest.mark.soak) for each in (("fork", 4), ("spawn", 1))),
    ],
)
def test_persistent_workers_start_where_they_are_told(
    whole: list[list[tuple[str, ...]]], folder: Path, family: Family, method: str, workers: int
) -> None:
    running = stream(folder, family)
    loader = DataLoader(
        running, batch_size=None, num_workers=workers, multiprocessing_context=method, persistent_workers=True
    )
    assert keys(loader) == whole[0]
    running.set_epoch(2)
    assert keys(loader) == whole[2]
    running.set_epoch(0)
    running.seek(3)
    assert keys(loader) == whole[0][3 * G :]
    running.load_state_dict(running.state_dict(step=2))
    assert keys(loader) == whole[0][2 * G :]
    assert keys(loader) == whole[0][2 * G :], "iterating again starts there again"


@pytest.mark.parametrize("workers", [0, 2])
def test_fresh_workers_do_too(whole: list[list[tuple[str, ...]]], folder: Path, family: Family, workers: int) -> None:
    running = stream(folder, family)
    loader = DataLoader(running, batch_size=None, num_workers=workers)
    for epoch in (1, 0):
        running.set_epoch(epoch)
        assert keys(loader) == whole[epoch]
        running.seek(1)
        assert keys(loader) == whole[epoch][G:]


def test_the_state_outside_of_workers_needs_the_step(
    whole: list[list[tuple[str, ...]]], folder: Path, family: Family
) -> None:
    running = stream(folder, family)
    before = running.state_dict()
    loader = DataLoader(running, batch_size=None, num_workers=2)
    for _ in itertools.islice(loader, 2 * G):
        pass
    with pytest.raises(RuntimeError, match="give state_dict\\(step="):
        running.state_dict()
    resumed = stream(folder, family)
    resumed.load_state_dict(running.state_dict(step=2))
    assert keys(resumed) == whole[0][2 * G :]
    running.load_state_dict(before)
    assert running.state_dict() == before
    with pytest.raises(SpecError, match="no step -1"):
        running.state_dict(step=-1)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.soak), 3])
def test_torchdata_saves_and_restores(
    whole: list[list[tuple[str, ...]]], folder: Path, family: Family, workers: int
) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    for taken in (0, 1, 5, len(whole[0]) - 1):
        loader = stateful(stream(folder, family), batch_size=None, num_workers=workers)
        packs = iter(loader)
        head = keys(itertools.islice(packs, taken))
        state = loader.state_dict()
        ahead = keys(itertools.islice(packs, 1))
        resumed = stateful(stream(folder, family), batch_size=None, num_workers=workers)
        resumed.load_state_dict(state)
        rest = keys(resumed)
        assert head + rest == whole[0]
        assert ahead == rest[:1]


def test_a_worker_s_state_is_not_the_stream_s(folder: Path, family: Family) -> None:
    running = stream(folder, family)
    state = {**running.state_dict(), "worker": [1, 2, 4]}
    with pytest.raises(SpecError, match="state of worker 1 of 2"):
        running.load_state_dict(state)


def test_seek_asks_the_anchors_of_the_run(
    whole: list[list[tuple[str, ...]]], folder: Path, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a run folder a fresh process plans one block at most before it stands at any step."""
    running = stream(folder, family, tmp_path)
    assert keys(DataLoader(running, batch_size=None, num_workers=2)) == whole[0]
    steps = len(whole[0]) // G
    for step in range(steps):
        fresh = stream(folder, family, tmp_path)
        planned = []
        plan = fresh.planner._plan
        monkeypatch.setattr(fresh.planner, "_plan", lambda at, plan=plan, into=planned: into.append(at) or plan(at))
        fresh.seek(step)
        assert len(planned) <= 2, step
        assert keys(fresh) == whole[0][step * G :]
    other = StreamSpec(dataset=str(folder), max_length=128, seed=6, block_samples=10)
    stranger = StreamingDataset(other, family=family, global_batch=G, run_folder=tmp_path)
    expected = keys(StreamingDataset(other, family=family, global_batch=G))
    stranger.seek(2)
    assert keys(stranger) == expected[2 * G :], "anchors of another stream are not taken"
