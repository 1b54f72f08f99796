"""Anchors: against a list that is searched from its end, after cuts, and for another stream."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.errors import RunError
from mmdata.stream import anchors
from mmdata.stream.anchors import Anchors

COUNTS = st.lists(st.integers(0, 10**9), unique=True, max_size=40).map(sorted)


def place(count: int) -> list[int]:
    """A position that is as long as its count is odd."""
    return [count % 7, count // 7, *range(count % 50)]


def written(folder: Path, counts: list[int], digest: str = "a") -> Anchors:
    log = Anchors(digest, folder=folder)
    for count in counts:
        log.add(count, place(count), write=True)
    return log


@given(COUNTS, st.lists(st.integers(0, 10**9), max_size=20))
def test_the_last_at_or_before(counts: list[int], asked: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        log = written(Path(name), counts)
        later = Anchors("a", folder=Path(name))
        for count in [*asked, *counts, *(count - 1 for count in counts if count)]:
            expected = max((at for at in counts if at <= count), default=None)
            answer = (0, None) if expected is None else (expected, place(expected))
            assert log.before(count) == later.before(count) == answer


def test_a_cut_line_is_not_read_and_the_log_goes_on(tmp_path: Path) -> None:
    written(tmp_path, [10, 20, 30])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:-cut])
        left = [count for count in (10, 20, 30) if f"[{count}, ".encode() in whole[:-cut].rpartition(b"\n")[0] + b"\n"]
        expected = (left[-1], place(left[-1])) if left else (0, None)
        assert Anchors("a", folder=tmp_path).before(99) == expected, cut
        assert written(tmp_path, [10, 20, 30]).before(25) == (20, place(20))
        assert path.read_bytes() == whole


def test_what_is_there_is_not_written_twice(tmp_path: Path) -> None:
    written(tmp_path, [10, 20, 30])
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    written(tmp_path, [10, 20])
    assert path.read_bytes() == before
    written(tmp_path, [20, 30, 40])
    assert path.read_bytes().count(b"\n") == 5


def test_another_stream_begins_anew(tmp_path: Path) -> None:
    written(tmp_path, [10, 20])
    other = Anchors("b", folder=tmp_path)
    assert other.before(99) == (0, None)
    other.add(5, place(5), write=True)
    assert Anchors("b", folder=tmp_path).before(99) == (5, place(5))
    assert Anchors("a", folder=tmp_path).before(99) == (0, None)


def test_readers_do_not_write_and_runs_from_other_epochs_are_kept_apart(tmp_path: Path) -> None:
    log = Anchors("a", folder=tmp_path)
    log.add(10, place(10), write=False)
    assert list(tmp_path.iterdir()) == []
    assert log.before(12) == (10, place(10))
    Anchors("a", folder=tmp_path, first_epoch=3).add(7, place(7), write=True)
    assert Anchors("a", folder=tmp_path).before(99) == (0, None)


def test_memory_is_bounded_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors, "KEPT", 64)
    log = Anchors("a")
    for count in range(0, 100_000, 10):
        log.add(count, [count], write=True)
    found = [log.before(count)[0] for count in range(0, 100_000, 999)]
    assert all(0 <= count - at <= 100_000 / 30 for count, at in zip(range(0, 100_000, 999), found, strict=True))
    assert len(log._counts) <= 65


def test_a_folder_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="anchors of the run cannot be written"):
        Anchors("a", folder=tmp_path / "file").add(1, place(1), write=True)
