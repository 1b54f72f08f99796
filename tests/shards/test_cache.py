"""The cache of remote files: never over its limit, shared by processes, sound after a kill and on a bad disk."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import crc32c
import pytest

from mmdata.errors import DataError, RunError, SpecError
from mmdata.rng import generator
from mmdata.shards.access import open_source
from mmdata.shards.cache import Cache
from mmdata.shards.remote import RemoteSource
from mmdata.testing.server import FaultServer

FILES = 6
SIZE = 100_000


def content(number: int) -> bytes:
    return generator("cache", number).bytes(SIZE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    root = tmp_path_factory.mktemp("origin")
    for number in range(FILES):
        (root / f"{number}.tar").write_bytes(content(number))
    paths = {
        "/slow.tar": {"file": "0.tar", "drip_bytes": 1000, "drip_seconds": 0.02},
        "/bad_once.tar": [{"file": "1.tar", "times": 1}, {"file": "0.tar"}],
        "/bad.tar": {"file": "1.tar"},
    }
    with FaultServer(root, {"origins": {"main": {"paths": paths}}}) as running:
        yield running


def sha(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


def gets(server: FaultServer) -> int:
    return sum(asked.method == "GET" for asked in server.log())


def test_the_least_recently_used_goes_first(server: FaultServer, tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3 * SIZE)
    urls = [f"{server.url}/{number}.tar" for number in range(FILES)]
    for number in (0, 1, 2):
        path = cache.ensure(urls[number], SIZE, sha(number))
        assert path is not None
        os.utime(path, (number, number))
    first = cache.path(urls[0], SIZE, sha(0))
    cache._used.clear()
    assert cache.read(first, SIZE, 10, 90) == content(0)[10:100]  # now 1 is the one to go
    assert cache.ensure(urls[3], SIZE, sha(3)) is not None
    held = {number for number in range(FILES) if cache.path(urls[number], SIZE, sha(number)).exists()}
    assert held == {0, 2, 3}
    assert cache.used() == 3 * SIZE


def test_a_limit_of_any_size_is_never_exceeded(server: FaultServer, tmp_path: Path) -> None:
    caches = [Cache(tmp_path, int(2.5 * SIZE)) for _ in range(3)]
    most, stop = [0], threading.Event()

    def watch() -> None:
        last = False
        while not last:  # once more when all is done: on a busy machine there may be no look before
            last = stop.is_set()
            with (tmp_path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # names do not change while they are listed
                sizes = []
                for path in tmp_path.iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        sizes.append(path.stat().st_size)
            most[0] = max(most[0], sum(sizes))
            time.sleep(0.001)

    def use(turn: int) -> bytes | None:
        number = int(generator("turns", turn).integers(FILES))
        path = caches[turn % 3].ensure(f"{server.url}/{number}.tar", SIZE, sha(number))
        data = None if path is None else caches[turn % 3].read(path, SIZE, 0, SIZE)
        assert data in (None, content(number))
        return data

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(use, range(120)))
    stop.set()
    watcher.join()
    assert any(data is not None for data in found)
    assert 2 * SIZE <= most[0] <= 2.5 * SIZE


def test_what_does_not_fit_is_read_by_ranges(
    server: FaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(tmp_path, SIZE - 1)
    for number in (0, 1):
        source = open_source(f"{server.url}/{number}.tar", cache=cache, size=SIZE)
        assert source.read(0, SIZE) == content(number)
        assert source.read(5, SIZE - 5) == content(number)[5:]
    assert cache.used() == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "read by ranges from now on" in caplog.text
    with pytest.raises(RunError, match=r"no room for .*0.tar \(100000 bytes\) within 99999 bytes; raise the cache's"):
        cache.local_path(f"{server.url}/0.tar", size=SIZE)


def test_a_source_is_kept_whole_once_half_is_read(server: FaultServer, tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * SIZE)
    source = open_source(f"{server.url}/0.tar", cache=cache, size=SIZE, digest=sha(0))
    for at in range(0, SIZE // 2 - 1000, 1000):
        assert source.read(at, 1000) == content(0)[at : at + 1000]
    assert cache.used() == 0
    assert source.read(0, 2000) == content(0)[:2000]
    assert cache.used() == SIZE
    server.clear_log()
    assert source.read(0, SIZE) == content(0)
    other = open_source(f"{server.url}/0.tar", cache=Cache(tmp_path, 10 * SIZE), size=SIZE, digest=sha(0))
    assert other.read(7, 8) == content(0)[7:15]
    assert gets(server) == 0


def test_a_file_is_downloaded_once_for_all(server: FaultServer, tmp_path: Path) -> None:
    server.clear_log()
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        found = pool.starmap(_fetch, [(str(tmp_path), server.url)] * 8, chunksize=1)
    assert found == [sha(0)] * 8
    assert [(asked.path, asked.status) for asked in server.log()] == [("/slow.tar", 206)]


def _fetch(folder: str, url: str) -> str:
    path = Cache(folder, 10 * SIZE).local_path(f"{url}/slow.tar", size=SIZE, digest=sha(0))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_damage_on_the_way_is_fetched_again_once(server: FaultServer, tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * SIZE)
    path = cache.local_path(f"{server.url}/bad_once.tar", size=SIZE, digest=sha(0))
    assert path.read_bytes() == content(0)
    with pytest.raises(DataError, match=r"file_digest: .*bad.tar"):
        cache.local_path(f"{server.url}/bad.tar", size=SIZE, digest=sha(0))
    assert cache.used() == SIZE


@pytest.mark.parametrize("digest", [sha(0), f"crc32c:{crc32c.crc32c(content(0)):08x}"])
def test_a_cached_file_that_rots_is_fetched_again(server: FaultServer, tmp_path: Path, digest: str) -> None:
    url = f"{server.url}/0.tar"
    path = Cache(tmp_path, 10 * SIZE).local_path(url, size=SIZE, digest=digest)
    for damage in (flip, lambda path: os.truncate(path, SIZE // 2)):
        damage(path)
        assert Cache(tmp_path, 10 * SIZE).local_path(url, size=SIZE, digest=digest).read_bytes() == content(0)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[SIZE // 3] ^= 4
    path.write_bytes(data)


def test_a_shard_that_rots_in_the_cache_is_told_by_its_reader(server: FaultServer, tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * SIZE)
    source = RemoteSource(f"{server.url}/0.tar", cache=cache, size=SIZE, digest=sha(0))
    assert source.keep()
    path = cache.path(source.uri, SIZE, sha(0))
    flip(path)
    assert source.read(0, SIZE) != content(0)
    assert source.again(5, 10) == content(0)[5:15]
    assert path.exists()  # these bytes are sound
    assert source.again(SIZE // 3, 10) == content(0)[SIZE // 3 : SIZE // 3 + 10]
    assert not path.exists()
    assert source.read(0, SIZE) == content(0)


def test_a_shard_damaged_at_its_origin_is_not_kept(server: FaultServer, tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * SIZE)
    source = RemoteSource(f"{server.url}/bad.tar", cache=cache, size=SIZE, digest=sha(0))
    assert not source.keep()
    assert source.read(0, SIZE) == content(1)  # whoever reads checks the pieces, and finds which are sound
    assert cache.used() == 0


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "rename", "fdatasync"])
def test_a_full_disk_degrades_to_ranges(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    cache = Cache(tmp_path, 10 * SIZE)
    monkeypatch.setattr(os, call, full)
    for number in (0, 1):
        assert open_source(f"{server.url}/{number}.tar", cache=cache, size=SIZE).read(0, SIZE) == content(number)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ENOSPC: No space left on device" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


def test_reading_goes_on_when_a_file_is_evicted(server: FaultServer, tmp_path: Path) -> None:
    cache = Cache(tmp_path, SIZE)
    source = RemoteSource(f"{server.url}/0.tar", cache=cache, size=SIZE)
    assert source.keep()
    path = cache.path(source.uri, SIZE)
    with path.open("rb") as file:
        assert RemoteSource(f"{server.url}/1.tar", cache=cache, size=SIZE).keep()
        assert not path.exists()
        assert file.read() == content(0)
    assert source.read(3, 50) == content(0)[3:53]


def test_paths_that_were_given_out_are_not_evicted(server: FaultServer, tmp_path: Path) -> None:
    cache, other = Cache(tmp_path, 2 * SIZE), Cache(tmp_path, 2 * SIZE)
    path = cache.local_path(f"{server.url}/0.tar", size=SIZE)
    for number in (1, 2, 3):
        assert other.ensure(f"{server.url}/{number}.tar", SIZE) is not None
    assert path.read_bytes() == content(0)
    del cache
    assert other.ensure(f"{server.url}/4.tar", SIZE) is not None
    assert other.ensure(f"{server.url}/5.tar", SIZE) is not None
    assert not path.exists()


def test_files_of_others_are_never_touched(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_bytes(bytes(5 * SIZE))
    cache = Cache(tmp_path, 2 * SIZE)
    for number in range(4):
        assert cache.ensure(f"{server.url}/{number}.tar", SIZE) is not None
    assert (tmp_path / "thesis.tex").stat().st_size == 5 * SIZE
    assert cache.used() == 2 * SIZE


KILLED = """
import json, sys
from mmdata.shards.cache import Cache
folder, url, size, digest = json.loads(sys.argv[1])
print("go", flush=True)
Cache(folder, 3 * size).local_path(url, size=size, digest=digest)
"""


def test_a_kill_in_mid_download_leaves_nothing_behind(server: FaultServer, tmp_path: Path) -> None:
    arguments = [str(tmp_path), f"{server.url}/slow.tar", SIZE, sha(0)]
    process = subprocess.Popen([sys.executable, "-c", KILLED, json.dumps(arguments)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    alive = Cache(tmp_path, 3 * SIZE)
    assert alive.used() == SIZE  # a download that lives keeps its room
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert Cache(tmp_path, 3 * SIZE).used() == 0
    assert alive.local_path(f"{server.url}/0.tar", size=SIZE, digest=sha(0)).read_bytes() == content(0)


def test_who_waits_for_a_download_that_dies_takes_it_over(server: FaultServer, tmp_path: Path) -> None:
    arguments = [str(tmp_path), f"{server.url}/slow.tar", SIZE, sha(0)]
    process = subprocess.Popen([sys.executable, "-c", KILLED, json.dumps(arguments)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cache = Cache(tmp_path, 3 * SIZE)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.ensure, f"{server.url}/slow.tar", SIZE, sha(0))
        time.sleep(0.1)
        process.kill()
        process.wait()
        process.stdout.close()
        path = waiting.result(30)
    assert path is not None
    assert path.read_bytes() == content(0)


def test_a_cache_travels_to_workers(tmp_path: Path) -> None:
    cache = pickle.loads(pickle.dumps(Cache(tmp_path / "new", 123)))
    assert (cache.folder, cache.limit_bytes) == (tmp_path / "new", 123)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpecError, match=r"cache: .*file: .*; give a folder on a local disk"):
        Cache(tmp_path / "file", 10)
    with pytest.raises(SpecError, match="a limit of 0 bytes holds nothing"):
        Cache(tmp_path, 0)


@pytest.fixture(autouse=True)
def _levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
