"""Formulas against what really happens at a small scale: counted requests, a real cache, failures one by one."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest

from mmdata import StreamingDataset, StreamLoader, rng
from mmdata.collate import PackedCollator
from mmdata.families import Family, get_family
from mmdata.shards import cache, prefetch, transport
from mmdata.shards.prefetch import Prefetcher, Request
from mmdata.simulation import model
from mmdata.simulation.cluster import Cluster
from mmdata.stream import ahead
from mmdata.stream.ahead import THREADS
from mmdata.stream.spec import StreamSpec
from mmdata.testing.server import FaultServer
from mmdata.types import World
from tests.dataset_fixture import write_dataset
from tests.tokenizer_fixture import small_tokenizer

GAP = 2048
"""Bytes; joins the parts of a sample, and samples that lie beside each other."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("simulation") / "dataset", samples=60, per_shard=15)


@pytest.fixture(scope="module")
def family() -> Family:
    return get_family("llava", tokenizer=small_tokenizer(), image={"size": 28})


def test_requests_by_ranges_are_those_of_a_real_server(
    folder: Path, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read-ahead sees more or less of what comes, by chance of threads: between all at once and pack by pack. Who asks
    before a read is begun makes a request of its own, and may part the read that it would have been in."""
    monkeypatch.setattr(prefetch, "GAP_BYTES", GAP)
    made: list[Prefetcher] = []

    class Told(Prefetcher):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            made.append(self)

    monkeypatch.setattr(ahead, "Prefetcher", Told)
    with FaultServer(folder.parent) as server:
        spec = StreamSpec(dataset=f"{server.url}/dataset", cache=str(tmp_path), max_length=64)
        far = StreamingDataset(spec, family=family, world=World(rank=1, ranks=4))
        deals = [dealt.pack for dealt in far.deals() if dealt.pack is not None]
        server.clear_log()
        assert len(list(StreamLoader(far, PackedCollator()))) >= len(deals) > 3
        counted = sum(asked.path.endswith(".tar") for asked in server.log())
    near = StreamingDataset(str(folder), family=family, max_length=64)
    packs = []
    for pack in deals:
        places = []
        for item in pack.items:
            parts = [part.place for part in near.datasets[0].row(item.position).parts if part.place is not None]
            shard = near.datasets[0].ref(item.position).shard
            places.append((shard, min(p.offset for p in parts), max(p.offset + p.size for p in parts)))
        packs.append(places)
    at_once, _ = model.ranges([place for places in packs for place in places], gap=GAP)
    apart = sum(model.ranges(places, gap=GAP)[0] for places in packs)
    assert made
    assert at_once <= counted <= apart + 2 * sum(each.stats.direct for each in made)
    assert apart <= 1.5 * at_once  # so the bounds say something


def test_whole_shards_are_downloaded_in_as_many_requests(folder: Path, family: Family, tmp_path: Path) -> None:
    sizes = {f"/dataset/shards/{path.name}": path.stat().st_size for path in (folder / "shards").iterdir()}
    with FaultServer(folder.parent) as server:
        spec = StreamSpec(dataset=f"{server.url}/dataset", cache=str(tmp_path), max_length=128, shuffle="shard")
        assert list(StreamLoader(StreamingDataset(spec, family=family), PackedCollator()))
        whole = [asked for asked in server.log() if asked.range == f"bytes=0-{sizes.get(asked.path, 0) - 1}"]
    assert (len(whole), sum(sizes.values())) == model.whole(list(sizes.values()))
    assert model.whole([transport.PIECE_BYTES + 1, 5]) == (3, transport.PIECE_BYTES + 6)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_cache_hits_as_often_as_the_formula_says(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real Cache before files in memory, epoch after epoch in orders of chance: within 6 points."""
    files, size, epochs = 40, 64, 7
    system = fsspec.filesystem("memory")
    for number in range(files):
        system.pipe_file(f"/simulated/{number}", bytes([number]) * size)
    monkeypatch.setattr(cache, "TOUCH_SECONDS", 0.0)  # epochs take less than the second that times of use are good for
    downloads = 0
    original = transport.pieces

    def counted(uri: str, size: int):  # type: ignore[no-untyped-def]
        nonlocal downloads
        downloads += 1
        return original(uri, size)

    monkeypatch.setattr(transport, "pieces", counted)
    kept = cache.Cache(tmp_path, round(share * files) * size)
    for epoch in range(epochs):
        if epoch == 1:
            assert downloads == files
        for number in rng.generator("simulated", epoch).permutation(files).tolist():
            assert kept.ensure(f"memory://simulated/{number}", size) is not None
    hits = 1 - (downloads - files) / (files * (epochs - 1))
    assert hits == pytest.approx(model.hit_rate(share), abs=0.06)


class Slow:
    """A source whose every answer waits."""

    uri, size = "slow://x", 1 << 30

    def fetch(self, offset: int, size: int) -> bytes:
        time.sleep(0.05)
        return bytes(size)

    def keep(self) -> bool:
        return False


def test_latency_is_shared_by_the_threads_of_read_ahead() -> None:
    """Never sooner than the formula; later by what a busy machine takes."""
    told, count, source = Cluster(latency=0.05, bandwidth=1e12, node_bandwidth=1e12), 40, Slow()
    requests = [Request(source, number * (2 << 20), 10) for number in range(count)]
    began = time.monotonic()
    with Prefetcher(threads=THREADS) as ahead:
        ahead.want(requests)
        for request in requests:
            ahead.get(request)
    took = time.monotonic() - began
    computed = model.read_seconds(count, count * 10, told, sharing=1)
    assert computed == pytest.approx(math.ceil(count / THREADS) * 0.05, rel=1e-6)
    assert computed * 0.99 <= took <= computed * 4


@pytest.mark.parametrize("nodes", [16, 512, 4096])
def test_goodput_is_that_of_failures_one_by_one(nodes: int) -> None:
    """Within 2 % of a process that is simulated failure by failure; and no other interval is better."""
    told = Cluster(ranks=8 * nodes, node_hours=5_000, checkpoint_seconds=60, restart_seconds=240)
    best = model.best_interval(told)
    for interval in (best, 1800.0):
        computed = model.goodput(interval, 30.0, told)
        assert model.simulated_goodput(interval, 30.0, told) == pytest.approx(computed, rel=0.02)
    assert model.goodput(best, 30.0, told) >= max(model.goodput(best * f, 30.0, told) for f in (0.5, 2.0))
    assert model.goodput(1800.0, 1e9, told) == 0.0


def test_waiting_after_every_pack_costs_more() -> None:
    import numpy as np

    costs, plan = np.array([4.0, 1.0, 1.0, 4.0]), np.array([[0, 1], [2, 3]])
    assert model.each_micro(costs, plan) == 8 / 5  # 4 + 4 where each rank has 5
    assert model.each_micro(np.zeros(4), plan) == 1.0
