"""The gathering, hashing file: the bytes and the digest of what was written, whatever the pieces and the kernel do."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import pytest

from mmdata.shards import sink
from mmdata.shards.sink import ShardSink

PIECES = [b"", b"a" * 512, os.urandom(100_000), b"b" * 7, os.urandom(3_000_000), b"c", os.urandom(sink.SMALL)] * 3


@pytest.mark.parametrize("sha256", [True, False])
def test_all_that_is_written(tmp_path: Path, sha256: bool) -> None:
    whole = b"".join(PIECES)
    with open(tmp_path / "file", "wb", buffering=0) as raw, ShardSink(raw.fileno(), sha256=sha256) as file:
        assert [file.write(piece) for piece in PIECES] == [len(piece) for piece in PIECES]
        file.flush()
        if sha256:
            assert file.hexdigest() == hashlib.sha256(whole).hexdigest()
    assert (tmp_path / "file").read_bytes() == whole


def test_a_kernel_that_takes_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = os.writev

    def little(handle: int, pieces: list[bytes]) -> int:
        return true(handle, [b"".join(pieces)[:70_001]])

    monkeypatch.setattr(os, "writev", little)
    with open(tmp_path / "file", "wb", buffering=0) as raw, ShardSink(raw.fileno()) as file:
        for piece in PIECES:
            file.write(piece)
        assert file.hexdigest() == hashlib.sha256(b"".join(PIECES)).hexdigest()
    assert (tmp_path / "file").read_bytes() == b"".join(PIECES)


def test_many_pieces_of_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "SMALL", 1)
    monkeypatch.setattr(sink, "MOST_PIECES", 3)
    with open(tmp_path / "file", "wb", buffering=0) as raw, ShardSink(raw.fileno()) as file:
        for number in range(200):
            file.write(b"%d," % number)
        file.flush()
    assert (tmp_path / "file").read_bytes() == b"".join(b"%d," % number for number in range(200))


def test_a_full_disk_is_told() -> None:
    with open("/dev/full", "wb", buffering=0) as raw, ShardSink(raw.fileno()) as file:
        file.write(b"a" * 4096)
        with pytest.raises(OSError, match="No space left"):
            file.flush()


@pytest.mark.parametrize("sha256", [True, False])
def test_a_disk_that_fills_up_is_told_before_the_end(sha256: bool) -> None:
    def fill() -> None:
        with open("/dev/full", "wb", buffering=0) as raw, ShardSink(raw.fileno(), sha256=sha256) as file:
            for _ in range(100):
                file.write(b"a" * sink.GATHER)
            file.flush()

    before = threading.active_count()
    with pytest.raises(OSError, match="No space left"):
        fill()
    assert threading.active_count() == before


def test_the_thread_starts_with_the_first_large_write_and_ends_with_the_file(tmp_path: Path) -> None:
    before = threading.active_count()
    with open(tmp_path / "file", "wb", buffering=0) as raw, ShardSink(raw.fileno()) as file:
        file.write(b"a" * (sink.GATHER - 1))
        assert threading.active_count() == before
        file.write(b"b" * sink.GATHER)
        assert threading.active_count() > before
        assert file.hexdigest() == hashlib.sha256(b"a" * (sink.GATHER - 1) + b"b" * sink.GATHER).hexdigest()
        assert threading.active_count() == before
        file.write(b"c" * sink.GATHER)  # and again after a flush
        file.flush()
    assert (tmp_path / "file").stat().st_size == 3 * sink.GATHER - 1
    assert threading.active_count() == before
