"""Bytes by place inside files: checked where a checksum is known, each failure under its reason."""

from __future__ import annotations

import threading
from pathlib import Path

import crc32c
import pytest

from mmdata.fetch import inside
from mmdata.fetch.failure import FetchError
from mmdata.fetch.inside import Inside
from mmdata.types import Place


def test_places_are_read_by_many_threads_and_files_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "OPEN_FILES", 2)
    for number in range(5):
        (tmp_path / f"{number}.tar").write_bytes(bytes([number]) * 1000)
    reader, wrong = Inside(), []

    def read() -> None:
        for at in range(200):
            place = Place(offset=at, size=9, crc32c=None, shard=str(tmp_path / f"{at % 5}.tar"))
            if reader.read(place, 10) != bytes([at % 5]) * 9:
                wrong.append(at)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader.close()
    assert wrong == []


def test_what_is_wrong_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    shard, reader = str(tmp_path / "a.tar"), Inside()
    right = int(crc32c.crc32c(b"234"))
    assert reader.read(Place(offset=2, size=3, crc32c=right, shard=shard), 3) == b"234"
    for place, limit, reason in (
        (Place(offset=2, size=3, crc32c=right + 1, shard=shard), 3, "part_crc32c"),
        (Place(offset=8, size=3, crc32c=None, shard=shard), 3, "shard_cut"),
        (Place(offset=0, size=3, crc32c=None, shard=shard + "x"), 3, "shard_missing"),
        (Place(offset=0, size=3, crc32c=None, shard=shard), 2, "too_large"),
        (Place(offset=0, size=0, crc32c=None, shard=shard), 2, "empty_body"),
    ):
        with pytest.raises(FetchError) as caught:
            reader.read(place, limit)
        assert (caught.value.reason, caught.value.state) == (reason, "failed_permanent")
