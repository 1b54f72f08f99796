"""Bytes of local and remote files: exact, tried again while storage fails, and named when they are not there."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from mmdata.errors import DataError, RunError
from mmdata.rng import generator
from mmdata.shards import transport
from mmdata.shards.access import join, open_source, read_file
from mmdata.testing.server import FaultServer

SIZE = 300_000


@pytest.fixture(scope="module")
def data() -> bytes:
    return generator("access").bytes(SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> Path:
    folder = tmp_path_factory.mktemp("access")
    (folder / "a.tar").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[FaultServer]:
    paths = {
        "/whole.tar": {"file": "a.tar", "ranges": False},
        "/flaky.tar": [{"status": 503, "times": 1}, {"instead": "reset", "times": 1}, {"file": "a.tar"}],
        "/cut.tar": [{"file": "a.tar", "send": 1000, "times": 2}, {"file": "a.tar"}],
        "/down.tar": {"status": 500},
        "/forbidden.tar": {"status": 403},
        "/gone.tar": {"status": 410},
        "/silent.tar": {"instead": "hang"},
        "/nameless.tar": {"file": "a.tar", "declare": "chunked"},
    }
    with FaultServer(folder, {"origins": {"main": {"paths": paths}}}) as running:
        yield running


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmdata.shards.retry.WAIT", 0.001)


@pytest.fixture(params=["path", "file", "mapped", "memory", "http", "no_ranges"])
def uri(request: pytest.FixtureRequest, folder: Path, data: bytes) -> str:
    match request.param:
        case "file":
            return f"file://{folder / 'a.tar'}"
        case "memory":
            fsspec.filesystem("memory").pipe_file("/access/a.tar", data)
            return "memory://access/a.tar"
        case "http" | "no_ranges":
            running: FaultServer = request.getfixturevalue("server")
            return f"{running.url}/{'a' if request.param == 'http' else 'whole'}.tar"
        case _:
            return str(folder / "a.tar")


def test_reads_are_exact(uri: str, data: bytes, request: pytest.FixtureRequest) -> None:
    source = open_source(uri, mapped="mapped" in request.node.name)
    draw = generator("access", "reads")
    assert source.size == SIZE
    for _ in range(12):
        start, end = sorted(int(at) for at in draw.integers(0, SIZE + 1, 2))
        assert source.read(start, end - start) == data[start:end]
        view = source.view(start, end - start)
        assert view.readonly
        assert view == data[start:end]
        buffer = bytearray(end - start)
        source.read_into(start, memoryview(buffer))
        assert buffer == data[start:end]
    for offset, size in ((SIZE - 5, 6), (SIZE, 1), (SIZE + 100, 10)):
        with pytest.raises(DataError, match=f"shard_cut.*a?.tar: ends at byte .*, {offset + size} expected"):
            source.read(offset, size)
        with pytest.raises(DataError, match="shard_cut"):
            source.view(offset, size)
    source.close()
    with pytest.raises(ValueError, match="read after close"):
        source.read(0, 1)


def test_threads_share_a_source(uri: str, data: bytes) -> None:
    source = open_source(uri)

    def read(number: int) -> bool:
        start = number * 997 % (SIZE - 500)
        return source.read(start, 500) == data[start : start + 500]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(64)))


@pytest.mark.parametrize("uri", ["/nowhere/a.tar", "memory://nowhere/a.tar", "http"])
def test_what_is_not_there_is_named(uri: str, server: FaultServer) -> None:
    uri = f"{server.url}/nowhere.tar" if uri == "http" else uri
    with pytest.raises(DataError, match=r"shard_missing: .*nowhere"):
        open_source(uri)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_file(uri)


def test_a_size_that_is_known_costs_no_question(server: FaultServer, data: bytes) -> None:
    server.clear_log()
    assert open_source(f"{server.url}/a.tar", size=SIZE).read(7, 9) == data[7:16]
    assert [(asked.method, asked.range) for asked in server.log()] == [("GET", "bytes=7-15")]


def test_a_shard_shorter_than_its_manifest_says_is_cut(server: FaultServer, data: bytes) -> None:
    source = open_source(f"{server.url}/a.tar", size=SIZE + 100)
    assert source.read(SIZE - 10, 10) == data[-10:]
    with pytest.raises(DataError, match=rf"shard_cut: .*a.tar: ends at byte {SIZE}, {SIZE + 20} expected"):
        source.read(SIZE - 10, 30)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["flaky", "cut"])
def test_a_server_that_fails_for_a_moment_is_asked_again(server: FaultServer, data: bytes, name: str) -> None:
    assert open_source(f"{server.url}/{name}.tar", size=SIZE).read(1000, 5000) == data[1000:6000]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "error", "said", "asked"),
    [
        ("down", RunError, "down.tar: bytes 0 to 9: read failed 4 times: .*500", 4),
        ("forbidden", RunError, "forbidden.tar: refused with HTTP status 403", 1),
        ("gone", DataError, "shard_missing: .*gone.tar", 1),
    ],
)
def test_a_server_that_goes_on_failing_stops_the_run(
    server: FaultServer, name: str, error: type[Exception], said: str, asked: int
) -> None:
    server.clear_log()
    with pytest.raises(error, match=said):
        open_source(f"{server.url}/{name}.tar", size=SIZE).read(0, 9)
    assert len(server.log()) == asked


@pytest.mark.usefixtures("quick")
def test_a_size_that_cannot_be_told_is_no_missing_file(server: FaultServer) -> None:
    with pytest.raises(RunError, match=r"down.tar"):
        open_source(f"{server.url}/down.tar")
    with pytest.raises(RunError, match=r"nameless.tar: .*Content-Length"):
        open_source(f"{server.url}/nameless.tar")


@pytest.mark.usefixtures("quick")
def test_a_server_that_says_nothing_is_given_up(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REQUEST_SECONDS", 0.2)
    with pytest.raises(RunError, match=r"silent.tar: bytes 0 to 9: read failed 4 times"):
        open_source(f"{server.url}/silent.tar", size=SIZE).read(0, 9)


def test_a_forked_process_has_connections_of_its_own(server: FaultServer, data: bytes) -> None:
    source = open_source(f"{server.url}/a.tar")
    assert source.read(0, 100) == data[:100]
    child = os.fork()
    if not child:
        os._exit(0 if source.read(5, 100) == data[5:105] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert source.read(9, 100) == data[9:109]


def test_short_reads_and_errors_of_a_disk_do_not_show(
    folder: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    source = open_source(folder / "a.tar")
    pread, preadv, calls = os.pread, os.preadv, [0]

    def short(handle: int, size: int, offset: int) -> bytes:
        return pread(handle, min(size, 7), offset)

    def flaky(handle: int, buffers: list[memoryview], offset: int) -> int:
        calls[0] += 1
        if calls[0] % 3:
            raise OSError(5, "Input/output error")
        return preadv(handle, [buffers[0][:1000]], offset)

    monkeypatch.setattr(os, "pread", short)
    monkeypatch.setattr(os, "preadv", flaky)
    assert source.read(10, 4000) == data[10:4010]
    assert calls[0] == 12
    calls[0] = -(10**6) + 1  # never a multiple of three for long enough
    monkeypatch.setattr(os, "preadv", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(RunError, match=r"a.tar: bytes 10 to 4010: read failed 4 times: .*Input/output error"):
        source.read(10, 4000)


def test_a_map_of_a_file_that_was_cut_since_raises(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    source = open_source(tmp_path / "a.tar", mapped=True)
    assert source.view(SIZE - 10, 10) == data[-10:]
    os.truncate(tmp_path / "a.tar", 5000)
    with pytest.raises(DataError, match=r"shard_cut: .*ends at byte 5000"):
        source.view(SIZE - 10, 10)
    assert source.view(0, 5000) == data[:5000]


def test_a_source_closed_under_a_reader_reads_on(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    (tmp_path / "b.tar").write_bytes(bytes(SIZE))
    source = open_source(tmp_path / "a.tar")
    pread, reading, closed = os.pread, threading.Event(), threading.Event()

    def slow(handle: int, size: int, offset: int) -> bytes:
        reading.set()
        assert closed.wait(10)
        return pread(handle, size, offset)

    monkeypatch.setattr(os, "pread", slow)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(source.read, 0, 100)
        assert reading.wait(10)
        source.close()
        other = open_source(tmp_path / "b.tar")  # would get the number of a descriptor that was closed
        closed.set()
        assert future.result(10) == data[:100]
    assert other.size == SIZE


def test_names_are_joined_to_folders_and_urls() -> None:
    assert join("s3://bucket/data", "index/0.arrow") == "s3://bucket/data/index/0.arrow"
    assert join("https://host/data?sig=a/b", "manifest.json") == "https://host/data/manifest.json?sig=a/b"
