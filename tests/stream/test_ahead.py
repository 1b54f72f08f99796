"""A loader reads remote datasets ahead: the same batches, few requests, whole shards where the order goes by them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from mmdata import StreamingDataset, open_dataset
from mmdata.collate import PackedCollator
from mmdata.families import Family
from mmdata.shards.prefetch import Piece, Prefetcher, Request
from mmdata.steps.materialize import Materialize
from mmdata.stream.loader import StreamLoader
from mmdata.stream.spec import StreamSpec
from mmdata.testing.server import FaultServer
from mmdata.types import World
from tests.dataset_fixture import write_dataset
from tests.stream.test_materialized import write

SAMPLES = 40


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("ahead") / "dataset", samples=SAMPLES, per_shard=10)


@pytest.fixture(scope="module")
def server(sound: Path) -> Iterator[FaultServer]:
    with FaultServer(sound.parent) as running:
        yield running


def loader(dataset: str, cache: Path, family: Family, **fields: object) -> StreamLoader:
    spec = StreamSpec(dataset=dataset, cache=str(cache), max_length=128, **fields)  # type: ignore[arg-type]
    return StreamLoader(StreamingDataset(spec, family=family), PackedCollator(), threads=2, ahead=4)


def prompt_prefetchers(monkeypatch: pytest.MonkeyPatch) -> list[Prefetcher]:
    """The prefetchers made from now on, whose threads have begun whatever is wanted before anybody can ask for it:
    on a busy machine a caller could be the first, and would then read alone."""
    made: list[Prefetcher] = []
    make, want = Prefetcher.__init__, Prefetcher.want

    def remembered(self: Prefetcher, **given: object) -> None:
        make(self, **given)  # type: ignore[arg-type]
        made.append(self)

    def prompt(self: Prefetcher, requests: Iterable[Request]) -> list[Piece]:
        pieces = want(self, requests)
        deadline = time.monotonic() + 10
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.001)
        return pieces

    monkeypatch.setattr(Prefetcher, "__init__", remembered)
    monkeypatch.setattr(Prefetcher, "want", prompt)
    return made


def shards_asked(server: FaultServer) -> Counter[str]:
    return Counter(asked.path for asked in server.log() if asked.path.endswith(".tar"))


@pytest.mark.parametrize("shuffle", ["global", "shard"])
def test_batches_are_the_same_and_requests_few(
    server: FaultServer, sound: Path, family: Family, tmp_path: Path, shuffle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prompt_prefetchers(monkeypatch)
    near = [batch["input_ids"].tolist() for batch in loader(str(sound), tmp_path, family, shuffle=shuffle)]
    assert made == []  # local files are read by the system ahead
    # Texts are counted first, which reads a part of every shard; what follows is the loader's.
    url = f"{server.url}/dataset"
    far = loader(url, tmp_path / "cache", family, shuffle=shuffle)
    next(far.dataset.deals())
    server.clear_log()
    assert [batch["input_ids"].tolist() for batch in far] == near
    (ahead,) = made
    assert ahead.stats.requests > SAMPLES
    assert ahead._ahead == 0
    assert not ahead._waiting
    assert sum(shards_asked(server).values()) < 2 * SAMPLES  # a text and a picture of each sample, near each other
    if shuffle == "shard":
        sizes = {f"/dataset/shards/{path.name}": path.stat().st_size for path in (sound / "shards").iterdir()}
        whole = Counter(
            asked.path for asked in server.log() if asked.range == f"bytes=0-{sizes.get(asked.path, 0) - 1}"
        )
        assert all(count == 1 for count in whole.values())  # most are there since their texts were counted
        assert ahead.stats.whole >= 4
    assert not any(thread.is_alive() for thread in ahead._threads)


@pytest.mark.parametrize(
    ("keep", "materialized", "kinds"),
    [(True, "exact", {"stored"}), (False, "exact", {"stored"}), (True, "off", {"image"})],
)
def test_what_a_view_made_is_read_ahead_where_it_is_wanted(
    sound: Path,
    server: FaultServer,
    family: Family,
    tmp_path: Path,
    keep: bool,
    materialized: str,
    kinds: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = sound.parent / f"made-{keep}-{materialized}"
    write(sound, folder, (Materialize(family="llava", image={"size": 28}, keep_original=keep),))
    near = [batch["pixel_values"].tolist() for batch in loader(str(folder), tmp_path, family)]
    wanted: Counter[tuple[str, int, int]] = Counter()
    original = Prefetcher.want
    made: list[Prefetcher] = []

    def want(self: Prefetcher, requests: Iterable[Request]) -> list[Piece]:
        listed = list(requests)
        wanted.update((Path(request.source.uri).name, request.offset, request.size) for request in listed)
        made[:] = [self]
        return original(self, listed)

    monkeypatch.setattr(Prefetcher, "want", want)
    far = loader(f"{server.url}/{folder.name}", tmp_path / "cache", family, materialized=materialized)
    assert [batch["pixel_values"].tolist() for batch in far] == near
    dataset = open_dataset(folder)
    rows = [(dataset.ref(at).shard, part) for at in range(SAMPLES) for part in dataset.row(at).parts]
    assert wanted == Counter(
        (f"{shard:06d}.tar", part.place.offset, part.place.size)
        for shard, part in rows
        if part.kind in kinds | {"text", "meta"} and part.place is not None
    )
    assert wanted.total() == made[0].stats.requests, "all that was read ahead was asked for"


@pytest.mark.parametrize(("ranks", "whole"), [(2, True), (64, False)])
def test_shards_that_many_nodes_read_are_kept_by_none(
    server: FaultServer,
    sound: Path,
    family: Family,
    tmp_path: Path,
    ranks: int,
    whole: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of many ranks wants a few samples of each shard: it reads those, and leaves the rest where it is."""
    made = prompt_prefetchers(monkeypatch)
    spec = StreamSpec(dataset=f"{server.url}/dataset", cache=str(tmp_path), max_length=48, shuffle="block", seed=1)
    far = StreamingDataset(spec, family=family, world=World(rank=0, ranks=ranks))
    loader = StreamLoader(far, PackedCollator(), ahead=1)
    assert len(next(iter(loader))["keys"]) > 0
    (ahead,) = made
    assert bool(ahead.stats.whole) == whole


def test_processes_read_ahead_too(server: FaultServer, sound: Path, family: Family, tmp_path: Path) -> None:
    near = [batch["input_ids"].tolist() for batch in loader(str(sound), tmp_path, family)]
    spec = StreamSpec(dataset=f"{server.url}/dataset", cache=str(tmp_path / "cache"), max_length=128)
    far = StreamLoader(StreamingDataset(spec, family=family), PackedCollator(), workers=2)
    try:
        assert [batch["input_ids"].tolist() for batch in far] == near
    finally:
        far.close()
