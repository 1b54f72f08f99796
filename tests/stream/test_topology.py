"""Saved at any step and resumed on any ranks and workers, a stream goes on as if nothing had happened."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from mmdata import StreamingDataset
from mmdata.families import Family
from mmdata.stream import dataset as streams
from mmdata.stream import plan
from mmdata.stream.deal import Deal
from mmdata.stream.spec import StreamSpec
from mmdata.testing.resume import Adapter, Report, Topology, resume_at_every_step
from mmdata.types import Packed, World

G = 24
RANKS, WORKERS = (1, 2, 3, 4, 6, 8), (0, 1, 4)
ALL = [Topology(ranks=ranks, workers=workers) for ranks in RANKS for workers in WORKERS]
Names = list[tuple[int, int, int, tuple[str, ...]]]


class Planned(StreamingDataset):
    """A stream that reads nothing: of every deal the name of its pack, () for a dummy."""

    def read(self, dealt: Deal) -> Any:
        pack = dealt.pack
        return () if pack is None else ((pack.epoch, pack.block, pack.number, pack.keys),)


class Workers:
    """What DataLoader does with `workers` copies of a dataset, without processes: each in turn, until all have ended.
    States are the dataset's own, counted as the trainer takes."""

    def __init__(self, dataset: StreamingDataset, workers: int, batch: int) -> None:
        self.dataset, self.workers, self.batch = dataset, workers, batch
        self.taken = 0

    def __iter__(self) -> Iterator[Any]:
        if not self.workers:
            yield from self.dataset
            return
        copies = [self._as(worker, lambda: iter(self._copy())) for worker in range(self.workers)]
        for turn in itertools.count():
            worker = turn % self.workers
            try:
                item = self._as(worker, lambda worker=worker: next(copies[worker]))
            except StopIteration:
                return  # deals go round: where one worker has none left, the others have had theirs
            yield item

    def _as(self, worker: int, do: Callable[[], Any]) -> Any:
        """What a worker process would do."""
        told, streams.get_worker_info = streams.get_worker_info, self._info(worker)
        try:
            return do()
        finally:
            streams.get_worker_info = told

    def _copy(self) -> StreamingDataset:
        copied = copy.copy(self.dataset)
        copied._shared = self.dataset._shared
        copied.planner = self.dataset.planner
        return copied

    def _info(self, worker: int) -> Any:
        return lambda: SimpleNamespace(id=worker, num_workers=self.workers)


def adapter(spec: StreamSpec, family: Family) -> Adapter:
    """Planned streams that share one planner, which is quick to ask again."""
    planner = Planned(spec, family=family, global_batch=G).planner

    def opened(world: World) -> Workers:
        stream = Planned(spec, family=family, world=World(rank=world.rank, ranks=world.ranks), global_batch=G)
        stream.planner = planner
        return Workers(stream, world.workers, G // world.ranks)

    return Adapter(
        open=opened,
        save=lambda stream: stream.dataset.state_dict(),
        load=lambda stream, state: stream.dataset.load_state_dict(state),
        ids=lambda item: item,
    )


def exact(report: Report) -> None:
    assert report.exact, str(report)


@pytest.fixture
def spec(folder: Path, monkeypatch: pytest.MonkeyPatch) -> StreamSpec:
    """Four epochs of four blocks of small packs, and a last step that is short on every number of ranks."""
    monkeypatch.setattr(plan, "KEPT_BLOCKS", 100)
    return StreamSpec(dataset=str(folder), max_length=72, seed=5, block_samples=10, epochs=4)


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.soak)])
def test_every_step_on_every_topology(spec: StreamSpec, family: Family, every: int) -> None:
    """Every pack as often and in the same step as undisturbed, 3 and 5 ranks with dummy packs among them."""
    resumed = [*ALL, Topology(ranks=5, workers=2)]
    report = resume_at_every_step(
        adapter(spec, family), saved_on=[Topology(ranks=24)], resumed_on=resumed, step_items=G, every=every
    )
    exact(report)
    assert report.steps >= 4
    assert report.resumes == len(range(0, report.steps + 1, every)) * len(resumed)


@pytest.mark.parametrize("ranks", [1, 3, 5, *(pytest.param(each, marks=pytest.mark.soak) for each in (2, 8))])
def test_within_a_step(spec: StreamSpec, family: Family, ranks: int) -> None:
    resumed = [Topology(ranks=1), Topology(ranks=2, workers=4), Topology(ranks=3), Topology(ranks=5), Topology(ranks=8)]
    report = resume_at_every_step(
        adapter(spec, family),
        saved_on=[Topology(ranks=ranks)],
        resumed_on=resumed,
        step_items=G,
        every=11 if ranks == 1 else 5 if ranks < 5 else 3,
    )
    exact(report)


def test_the_order_within_a_step_is_that_of_the_plan_on_one_rank(spec: StreamSpec, family: Family) -> None:
    stream = Planned(spec, family=family, global_batch=G)
    names = [name for (name,) in stream]
    assert names == sorted(names, key=lambda name: name[:3])


def real(spec: StreamSpec, family: Family) -> Adapter:
    """Arrays by real DataLoaders."""

    class Loaded:
        def __init__(self, world: World) -> None:
            self.stream = StreamingDataset(
                spec, family=family, world=World(rank=world.rank, ranks=world.ranks), global_batch=G
            )
            self.workers = world.workers
            self.taken = 0

        def __iter__(self) -> Iterator[Packed]:
            for pack in DataLoader(self.stream, batch_size=None, num_workers=self.workers):
                self.taken += 1
                yield pack

    def name(pack: Packed) -> list[Any]:
        pixels = int(pack.media["pixel_values"].sum() * 1000)
        return [(pack.keys, pack.input_ids.tobytes(), pack.labels.tobytes(), pixels)] if pack.keys else []

    return Adapter(
        open=Loaded,
        save=lambda loaded: loaded.stream.state_dict() if not loaded.workers else None,
        load=lambda loaded, state: loaded.stream.load_state_dict(state),
        ids=name,
    )


@pytest.mark.parametrize(("ranks", "workers"), [pytest.param(1, 4, marks=pytest.mark.soak), (3, 1), (8, 0)])
def test_real_processes_read_the_same(spec: StreamSpec, family: Family, ranks: int, workers: int) -> None:
    """Every rank a process, its workers too; a pack is the same by its tokens, labels and pixels."""
    short = spec.model_copy(update={"epochs": 2})
    report = resume_at_every_step(
        real(short, family),
        saved_on=[Topology(ranks=2)],
        resumed_on=[Topology(ranks=ranks, workers=workers)],
        step_items=G,
        every=20,
        processes=True,
    )
    exact(report)
    assert report.resumes >= 2
