"""Streams on bad storage: what is damaged is never yielded, what fails is named and bounded, and the order stays."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from mmdata import StreamingDataset
from mmdata.collate import PackedCollator
from mmdata.errors import DataError, RunError
from mmdata.families import Family
from mmdata.shards.cache import Cache
from mmdata.stream.loader import StreamLoader
from mmdata.stream.spec import StreamSpec
from mmdata.testing.filesystem import Faults, Rule
from mmdata.testing.server import FaultServer
from mmdata.types import Packed, Sample
from tests.dataset_fixture import write_dataset
from tests.mmtrain import ranks  # noqa: F401 its fork server has imported torch

SAMPLES, PER_SHARD = 24, 6
SHARDS = [f"shards/{unit:06d}.tar" for unit in range(SAMPLES // PER_SHARD)]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("faults") / "dataset", samples=SAMPLES, per_shard=PER_SHARD)


@pytest.fixture(scope="module")
def expected(sound: Path) -> dict[str, Sample]:
    return samples(StreamingDataset(sound))


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def server(sound: Path) -> Iterator[FaultServer]:
    with FaultServer(sound.parent) as running:
        yield running


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mmdata.shards.retry.WAIT", 0.001)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


def samples(stream: StreamingDataset) -> dict[str, Sample]:
    return {sample.key: sample for sample in stream if isinstance(sample, Sample)}


def remote(server: FaultServer, cache: Path, limit: int = 64 << 20, **fields: object) -> StreamSpec:
    return StreamSpec(dataset=f"{server.url}/dataset", cache=str(cache), cache_bytes=limit, **fields)  # type: ignore[arg-type]


def equal(found: dict[str, Sample], expected: dict[str, Sample]) -> bool:
    """Whether each sample that was found is the expected one: texts, facts and pixels."""
    return all(
        sample.parts == expected[key].parts
        and all(
            np.array_equal(a.pixels, b.pixels)  # type: ignore[attr-defined]
            for a, b in zip(sample.media, expected[key].media, strict=True)
        )
        for key, sample in found.items()
    )


def cut(folder: Path) -> None:
    os.truncate(folder / SHARDS[1], (folder / SHARDS[1]).stat().st_size // 2)


def flip(folder: Path) -> None:
    data = bytearray((folder / SHARDS[1]).read_bytes())
    for at in range(700, len(data), 997):
        data[at] ^= 16
    (folder / SHARDS[1]).write_bytes(data)


def delete(folder: Path) -> None:
    (folder / SHARDS[1]).unlink()


def swap(folder: Path) -> None:
    one, other = (folder / SHARDS[number] for number in (1, 2))
    one.rename(folder / "third")
    other.rename(one)
    (folder / "third").rename(other)


def lose_index(folder: Path) -> None:
    (folder / "index/000001.arrow").unlink()


DAMAGES: dict[Callable[[Path], None], tuple[set[str], range]] = {
    cut: ({"shard_cut"}, range(6, 12)),
    flip: ({"part_crc32c"}, range(6, 12)),
    delete: ({"shard_missing"}, range(6, 12)),
    swap: ({"part_crc32c", "shard_cut"}, range(6, 18)),
}
"""Each with the reasons that are given, and the rows that are hit."""


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("where", ["local", "http"])
def test_a_damaged_shard_is_named_and_nothing_of_it_is_yielded(
    copy: Path,
    expected: dict[str, Sample],
    damage: Callable[[Path], None],
    where: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(copy)
    reasons, rows = DAMAGES[damage]
    with FaultServer(copy.parent) as serving:
        stream = StreamingDataset(copy if where == "local" else f"{serving.url}/copy")
        found = samples(stream)
    assert equal(found, expected)
    hit = {f"{row:09d}" for row in rows}
    lost = set(expected) - set(found)
    assert lost
    assert lost <= hit
    assert lost == hit or damage is cut  # what lies before the cut is sound
    assert set(stream.bad) <= reasons
    assert stream.bad.total() == len(lost)
    assert SHARDS[1] in caplog.text or "shard 1" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_packs_keep_their_order_around_a_damaged_shard(
    sound: Path, copy: Path, family: Family, damage: Callable[[Path], None]
) -> None:
    list(StreamingDataset(copy, family=family, max_length=128))  # texts are counted while they are sound
    damage(copy)
    streams = [StreamingDataset(folder, family=family, max_length=128) for folder in (sound, copy)]
    before, after = ([pack for pack in stream if isinstance(pack, Packed)] for stream in streams)
    assert [pack.keys for pack in after] == [pack.keys for pack in before]
    masked = {key for pack in after for key, _ in pack.masked}
    assert masked
    assert masked <= {f"{row:09d}" for row in DAMAGES[damage][1]}


@pytest.mark.parametrize("damage", [cut, delete], ids=lambda damage: damage.__name__)
def test_damage_that_is_met_when_texts_are_counted_is_named_and_masked(
    copy: Path, family: Family, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(copy / "lengths", ignore_errors=True)
    damage(copy)
    packs = [pack for pack in StreamingDataset(copy, family=family, max_length=128) if isinstance(pack, Packed)]
    reasons, rows = DAMAGES[damage]
    masked = dict(bad for pack in packs for bad in pack.masked)
    assert masked
    assert set(masked) <= {f"{row:09d}" for row in rows}
    assert set(masked) == {f"{row:09d}" for row in rows} or damage is cut
    assert set(masked.values()) <= reasons
    assert "copy/shards/000001.tar" in caplog.text


def test_an_index_that_is_lost_stops_a_planned_stream(copy: Path, family: Family) -> None:
    lose_index(copy)
    with pytest.raises((DataError, RunError), match=r"index.*000001.arrow"):
        list(StreamingDataset(copy, family=family, max_length=128))


@pytest.mark.parametrize("where", ["path", "faulty"])
def test_errors_and_short_reads_of_a_disk_do_not_show(
    sound: Path, expected: dict[str, Sample], where: str, tmp_path: Path
) -> None:
    rules = [
        Rule("eio", "*/dataset/shards/*.tar", rate=0.3, times=2),
        Rule("short", "*/dataset/shards/*.tar", rate=0.5, times=1),
        Rule("slow", "*/dataset/shards/*.tar", rate=0.1, seconds=0.01),
    ]
    with Faults(rules, seed=3) as faults:
        spec = StreamSpec(dataset=str(sound) if where == "path" else f"faulty://{sound}", cache=str(tmp_path / "c"))
        stream = StreamingDataset(spec)
        found = samples(stream)
    assert found.keys() == expected.keys()
    assert equal(found, expected)
    assert not stream.bad
    assert {fault.kind for fault in faults.log} >= {"eio", "short"}


def test_a_disk_that_goes_on_failing_stops_the_run(sound: Path, family: Family) -> None:
    with Faults([Rule("eio", "*/000002.tar")]):
        stream = StreamingDataset(sound, family=family, max_length=128)
        with pytest.raises(RunError, match=r"000002.tar: .*read failed 4 times: .*Input/output error"):
            list(stream)
        assert not stream.bad  # storage that fails is nobody's data


def test_bits_that_turn_on_the_way_are_read_again(sound: Path, expected: dict[str, Sample], tmp_path: Path) -> None:
    # Of a local file nothing else can be had; of a remote one the next answer may be sound.
    with Faults([Rule("flip", "*.tar", times=1)], seed=1) as faults:
        stream = StreamingDataset(
            StreamSpec(dataset=f"faulty://{sound}", cache=str(tmp_path / "c"), cache_bytes=40_000)
        )
        found = samples(stream)
    assert found.keys() == expected.keys()
    assert equal(found, expected)
    assert len(faults.log) > SAMPLES


def test_a_disk_that_always_turns_bits_is_stopped_by_the_budget(sound: Path, family: Family) -> None:
    spec = StreamSpec(dataset=str(sound), max_length=128, failures={"consecutive": 5})  # type: ignore[arg-type]
    with Faults([Rule("flip", "*.tar")]):
        stream = StreamingDataset(spec, family=family)
        with pytest.raises(RunError, match=r"5 records in a row.*shard \d+ row \d+ 0000000\d\d: part_crc32c"):
            list(stream)


@pytest.mark.parametrize("limit", [64 << 20, 1])
def test_streamed_remotely_equals_streamed_locally(
    server: FaultServer, sound: Path, family: Family, tmp_path: Path, limit: int
) -> None:
    """With a cache that holds everything, and with one that holds the largest two shards and an index."""
    if limit == 1:
        sizes = sorted((sound / name).stat().st_size for name in SHARDS)
        limit = sum(sizes[-2:]) + 100_000
    spec = remote(server, tmp_path / "cache", limit, max_length=128, epochs=2)
    stream = StreamingDataset(spec, family=family)
    cache = stream.dataset.folder.cache
    assert cache is not None
    local = StreamingDataset(StreamSpec(dataset=str(sound), max_length=128, epochs=2), family=family)
    count = 0
    for far, near in zip(stream, local, strict=True):
        assert isinstance(far, Packed)
        assert isinstance(near, Packed)
        assert far.keys == near.keys
        assert np.array_equal(far.input_ids, near.input_ids)
        assert all(
            np.array_equal(a, b) for a, b in zip(far.media["pixel_values"], near.media["pixel_values"], strict=True)
        )
        assert cache.used() <= limit
        count += 1
    assert count >= 4
    assert not stream.bad
    assert cache.used() > 0


def test_a_remote_stream_resumes_where_a_local_one_stopped(
    server: FaultServer, sound: Path, family: Family, tmp_path: Path
) -> None:
    local = StreamLoader(StreamingDataset(sound, family=family, max_length=128), PackedCollator(), ahead=3)
    batches = iter(local)
    for _ in range(2):
        next(batches)
    state = json.loads(json.dumps(local.state_dict()))
    rest = [batch["input_ids"].tolist() for batch in batches]
    far = StreamLoader(StreamingDataset(remote(server, tmp_path, max_length=128), family=family), PackedCollator())
    far.load_state_dict(state)
    assert [batch["input_ids"].tolist() for batch in far] == rest
    assert rest


def test_a_cache_on_a_full_disk_slows_a_stream_and_does_not_stop_it(
    server: FaultServer, expected: dict[str, Sample], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = StreamingDataset(remote(server, tmp_path / "cache"))
    stream.dataset.keys()  # the indexes are there before the disk is full
    with Faults([Rule("enospc", f"{tmp_path}/cache/*.part", "write")]) as faults:
        found = samples(stream)
    assert found.keys() == expected.keys()
    assert equal(found, expected)
    assert faults.log
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, [record.message for record in warnings]
    assert "ENOSPC" in warnings[0].message
    assert not list((tmp_path / "cache").glob("*.part"))


def test_no_room_for_an_index_is_said(server: FaultServer, family: Family, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cache .*: no room for http.*arrow .* raise the cache's limit"):
        list(StreamingDataset(remote(server, tmp_path, 1, max_length=128), family=family))


def test_a_url_without_a_dataset_is_named(server: FaultServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest_missing: http://.*/nothing"):
        StreamingDataset(StreamSpec(dataset=f"{server.url}/nothing", cache=str(tmp_path)))


def _read(url: str, cache: Path, limit: int, seed: int, said: Connection) -> None:
    """Two epochs; says when the stream is open, and then what it read and how large the cache was at most."""
    stream = StreamingDataset(StreamSpec(dataset=url, cache=str(cache), cache_bytes=limit, seed=seed, epochs=2))
    said.send("open")
    digest, most = hashlib.sha256(), 0
    for sample in sorted(stream, key=lambda sample: sample.key):
        digest.update(sample.media[0].pixels.tobytes())  # type: ignore[attr-defined]
        most = max(most, stream.dataset.folder.cache.used())  # type: ignore[union-attr]
    said.send((digest.hexdigest(), most, stream.bad.total()))


def start(server: FaultServer, cache: Path, limit: int, seed: int) -> tuple[BaseProcess, Connection]:
    """A process that reads, from the one that has the imports of `tests.mmtrain.ranks`."""
    context = multiprocessing.get_context("forkserver")
    heard, said = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(f"{server.url}/dataset", cache, limit, seed, said))
    process.start()
    said.close()
    return process, heard


def test_processes_share_a_cache_and_survive_a_kill(
    server: FaultServer, sound: Path, expected: dict[str, Sample], tmp_path: Path
) -> None:
    sizes = sorted((sound / name).stat().st_size for name in SHARDS)
    limit = sum(sizes[-2:]) + 100_000
    digest = hashlib.sha256()
    for key in sorted(expected):
        for _ in range(2):  # epochs
            digest.update(expected[key].media[0].pixels.tobytes())  # type: ignore[attr-defined]
    victim, heard = start(server, tmp_path, limit, 0)
    assert heard.recv() == "open"
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("*.part")) and victim.is_alive() and time.monotonic() < deadline:
        time.sleep(0.0005)
    victim.kill()
    victim.join()
    children = [start(server, tmp_path, limit, seed) for seed in (1, 2)]
    for child, heard in children:
        assert heard.recv() == "open"
        assert heard.poll(120)
        found, most, bad = heard.recv()
        assert found == digest.hexdigest()
        assert most <= limit
        assert bad == 0
        child.join()
        assert child.exitcode == 0
    assert Cache(tmp_path, limit).used() <= limit
    assert not list(tmp_path.glob("*.part"))
