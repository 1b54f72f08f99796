"""Raw access gives the bytes that samples have, whatever the order asked for, and tells what has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmdata import rng
from mmdata.errors import DataError
from mmdata.shards import raw
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.shards.local import LocalSource
from tests.dataset_fixture import write_dataset
from tests.shards.test_columns import index_row, write_index


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("raw") / "d", samples=43, per_shard=16)


def expected(dataset: Dataset, position: int) -> tuple[str, dict[str, bytes | None]]:
    sample = dataset[position]
    return sample.key, {"jpg": sample.media[0].data, "txt": sample.texts[0].text.encode()}


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("together", [1, 1 << 14, raw.TOGETHER])
def test_bytes_are_those_of_the_samples(
    folder: Path, view: bool, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "TOGETHER", together)
    dataset = open_dataset(folder)
    draw = rng.generator("raw", together)
    orders = [np.arange(43), draw.permutation(43), draw.integers(0, 43, 60), np.array([5, 6, 6, 7, 15, 16, 17, 3])]
    for positions in orders:
        found = list(dataset.iter_raw(positions, view=view))
        assert len(found) == len(positions)
        for position, (key, parts) in zip(positions.tolist(), found, strict=True):
            assert (key, {name: bytes(part) for name, part in parts.items()}) == expected(dataset, position)
            assert all(part.readonly for part in parts.values())
    assert {name: bytes(part) for name, part in dataset.raw(-1)[1].items()} == expected(dataset, 42)[1]
    with pytest.raises(IndexError):
        dataset.raw(43)


def test_neighbours_are_read_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(folder, integrity="off")
    source = dataset._locate(0)[0].source
    assert isinstance(source, LocalSource)
    reads: list[int] = []
    read = LocalSource.read

    def counting(self: LocalSource, offset: int, size: int) -> bytes:
        reads.append(size)
        return read(self, offset, size)

    monkeypatch.setattr(LocalSource, "read", counting)
    assert len(list(dataset.iter_raw(range(16)))) == 16
    assert len(reads) < 8
    assert max(reads) <= raw.TOGETHER


@pytest.mark.parametrize("view", [False, True])
def test_changed_bytes_are_told_and_off_does_not_look(folder: Path, tmp_path: Path, view: bool) -> None:
    copy = write_dataset(tmp_path / "d", samples=6, per_shard=3)
    shard = copy / "shards" / "000001.tar"
    place = open_dataset(copy).row(4).parts[1].place
    assert place is not None
    data = bytearray(shard.read_bytes())
    data[place.offset + 100] ^= 4
    shard.write_bytes(data)
    samples = open_dataset(copy).iter_raw(range(6), view=view)
    assert [next(samples)[0] for _ in range(4)] == [f"{row:09d}" for row in range(4)]
    with pytest.raises(DataError, match=r"part_crc32c.*000000004\.jpg"):
        next(samples)
    assert len(list(open_dataset(copy, integrity="off").iter_raw(range(6), view=view))) == 6
    shard.write_bytes(data[:2000])
    with pytest.raises(DataError, match="shard_cut"):
        list(open_dataset(copy, integrity="off").iter_raw(range(3, 6), view=view))


def test_parts_far_apart_are_read_alone_and_those_without_bytes_left_out(tmp_path: Path) -> None:
    row = index_row(0, [])
    near = index_row(1, [{"name": "", "kind": "image"}, {"name": "txt", "kind": "text"}])
    index = write_index(tmp_path / "d", [[row, near]])
    dataset = open_dataset(index)
    places = dataset._locate(0)[0].raw()
    assert [places.key(row) for row in range(2)] == ["k0", "k1"]
    assert places.names == ("txt",)
    firsts, offsets, ends = np.array([0, 2, 4, 4]), np.array([0, 90_000, 7, 30]), np.array([10, 90_010, 20, 35])
    starts, stops = raw._spans(firsts, offsets, ends)
    assert starts.tolist() == [0, 7, 0]
    assert stops.tolist() == [-1, 35, 0]
