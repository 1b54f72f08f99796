"""The faulty file system gives the faults of its rules, records each, and gives the same ones again."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from mmdata.errors import DataError, RunError
from mmdata.rng import generator
from mmdata.shards.access import open_source
from mmdata.shards.storage import write_atomic
from mmdata.testing.filesystem import EXPECTED, Fault, Faults, Kind, Operation, Rule

SIZE = 50_000
DATA = generator("filesystem").bytes(SIZE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar").write_bytes(DATA)
    return tmp_path / "shards" / "a.tar"


@pytest.fixture(params=["local", "faulty"])
def uri(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("mmdata.shards.retry.WAIT", 0.001)
    return str(path) if request.param == "local" else f"faulty://{path}"


def test_without_faults_everything_is_as_it_is(uri: str, path: Path) -> None:
    assert open_source(uri).read(10, 90) == DATA[10:100]
    with Faults([]) as faults:
        assert open_source(uri).read(10, 90) == DATA[10:100]
    assert faults.log == []
    system = fsspec.filesystem("faulty")
    assert system.cat_file(str(path)) == DATA
    assert [Path(name).name for name in system.ls(f"faulty://{path.parent}", detail=False)] == ["a.tar"]


def test_errors_that_pass_are_read_through_and_those_that_stay_are_raised(uri: str) -> None:
    with Faults([Rule("eio", "*.tar", times=2)]) as faults:
        assert open_source(uri, size=SIZE).read(10, 90) == DATA[10:100]
    assert [(fault.kind, fault.offset, fault.attempt) for fault in faults.log][:2] == [("eio", 10, 1), ("eio", 10, 2)]
    with Faults([Rule("eio", "*.tar")]), pytest.raises(RunError, match=r"a.tar.*read failed 4 times.*Input/output"):
        open_source(uri, size=SIZE).read(10, 90)


def test_short_reads_are_continued(uri: str) -> None:
    with Faults([Rule("short", "*.tar")]) as faults:
        assert open_source(uri, size=SIZE).read(10, 900) == DATA[10:910]
    assert len(faults.log) >= 9
    assert {fault.expected for fault in faults.log} == {"continued until all bytes are there"}


def test_a_flipped_bit_is_one_bit(uri: str) -> None:
    with Faults([Rule("flip", "*.tar", times=1)]):
        source = open_source(uri, size=SIZE)
        first, second = source.read(0, 100), source.read(0, 100)
    assert second == DATA[:100]
    assert sum((a ^ b).bit_count() for a, b in zip(first, DATA[:100], strict=True)) == 1


@pytest.mark.parametrize(("kind", "operation"), [("cut", "read"), ("missing", "open")])
def test_what_ends_early_or_is_missing_is_named(uri: str, kind: Kind, operation: Operation) -> None:
    with Faults([Rule(kind, "*/a.tar", operation)]), pytest.raises(DataError, match=r"shard_(cut|missing): .*a.tar"):
        open_source(uri, size=SIZE).read(0, 100)


def test_slow_reads_take_their_time(uri: str) -> None:
    with Faults([Rule("slow", "*.tar", seconds=0.15)]):
        start = time.monotonic()
        assert open_source(uri, size=SIZE).read(0, 10) == DATA[:10]
        assert time.monotonic() - start >= 0.15


@pytest.mark.parametrize(("name", "operation"), [("fsync", "sync"), ("replace", "rename")])
def test_writing_fails_where_the_rules_say(path: Path, name: str, operation: Operation) -> None:
    target = path.with_name("b.json")
    write_atomic(target, b"old")
    with Faults([Rule("enospc", "*/b.json*" if name == "replace" else "*b.json*", operation)]) as faults:
        with pytest.raises(OSError, match="No space left") as failed:
            write_atomic(target, b"new")
        write_atomic(path.with_name("c.json"), b"new")
    assert failed.value.errno == errno.ENOSPC
    assert [fault.operation for fault in faults.log] == [operation]
    assert target.read_bytes() == b"old"
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.tar", "b.json", "c.json"]


def test_a_short_write_writes_less(path: Path) -> None:
    handle = os.open(path.with_name("b.tar"), os.O_RDWR | os.O_CREAT)
    with Faults([Rule("short", "*/b.tar", "write", times=1)]):
        assert os.pwrite(handle, b"12345678", 0) == 4
        assert os.pwrite(handle, b"5678", 4) == 2  # another offset is another call
        assert os.pwrite(handle, b"5678", 4) == 4
        os.lseek(handle, 6, os.SEEK_SET)
        assert os.write(handle, b"abcdef") == 3
        buffers = [bytearray(3), bytearray(10)]
        assert os.preadv(handle, buffers, 0) == 9
    assert (bytes(buffers[0]), bytes(buffers[1])) == (b"123", b"456abc" + bytes(4))
    os.close(handle)


def test_the_schedule_is_the_seed_and_not_the_threads(path: Path) -> None:
    def faults_of(seed: int, threads: int, folder: Path) -> set[Fault]:
        with Faults([Rule("flip", "*.tar", rate=0.3)], seed=seed) as faults:
            source = open_source(folder / "a.tar")
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda at: source.read(at, 10), range(0, 10_000, 100)))
        return {Fault(f.kind, f.operation, "", f.offset, f.attempt, f.expected) for f in faults.log}

    other = path.parents[1] / "elsewhere" / "shards"
    other.mkdir(parents=True)
    (other / "a.tar").write_bytes(DATA)
    found = faults_of(1, 1, path.parent)
    assert 15 < len(found) < 45
    assert found == faults_of(1, 8, other)
    assert found != faults_of(2, 1, path.parent)


def test_rules_are_checked_and_one_set_is_at_work() -> None:
    assert all(outcome for outcome in EXPECTED.values())
    with pytest.raises(ValueError, match="rename has no fault 'flip'"):
        Rule("flip", "*", "rename")
    before = os.pread
    with Faults([]), pytest.raises(RuntimeError, match="at work already"), Faults([]):
        pass
    assert os.pread is before
