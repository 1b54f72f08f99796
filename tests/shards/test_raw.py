"""Raw access gives the bytes that samples have, whatever the order asked for, and tells what has changed."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest

from mmdata import rng
from mmdata.errors import DataError
from mmdata.shards import dataset as shards
from mmdata.shards import index, opened, raw
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
@pytest.mark.parametrize(("together", "single"), [(1, 0), (1 << 14, 3), (raw.TOGETHER, 1000)])
def test_bytes_are_those_of_the_samples(
    folder: Path, view: bool, together: int, single: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw, "TOGETHER", together)
    monkeypatch.setattr(opened, "SINGLE", single)
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


def test_what_is_no_position_and_no_key_is_named(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert dataset[np.int64(3)].key == dataset[3].key == dataset[dataset[3].key].key == dataset[-40].key
    for wrong in (1.5, None, slice(0, 2)):
        with pytest.raises(TypeError, match="asked for by position or key, not"):
            dataset[wrong]  # type: ignore[index]
    with pytest.raises(KeyError, match="has no key 'nobody'"):
        dataset["nobody"]
    with pytest.raises(IndexError, match="position 43 of 43"):
        dataset[43]


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


@pytest.mark.parametrize("single", [0, 1000])
def test_a_changed_part_of_a_sample_taken_alone_is_told(
    tmp_path: Path, single: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "SINGLE", single)
    copy = write_dataset(tmp_path / "d", samples=2)
    place = open_dataset(copy).row(1).parts[1].place
    assert place is not None
    data = bytearray((copy / "shards" / "000000.tar").read_bytes())
    data[place.offset + 100] ^= 4
    (copy / "shards" / "000000.tar").write_bytes(data)
    assert open_dataset(copy).raw(0)[0] == "000000000"
    with pytest.raises(DataError, match=r"part_crc32c.*000000001\.jpg"):
        open_dataset(copy).raw(1)
    assert len(open_dataset(copy, integrity="off").raw(1)[1]) == 2


def test_shards_that_are_let_go_are_freed_and_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a global order of more shards than stay open each sample opens one: it must not cost a pass over its index,
    nor leave it behind."""
    compared: list[str] = []
    check = index._check_file
    monkeypatch.setattr(
        index, "_check_file", lambda path, *rest: compared.append(Path(path).name) or check(path, *rest)
    )
    monkeypatch.setattr(shards, "OPEN_SHARDS", 2)
    monkeypatch.setattr(shards, "OPEN_BYTES", 0)
    copy = write_dataset(tmp_path / "d", samples=12, per_shard=3)
    dataset = open_dataset(copy)
    first = weakref.ref(dataset._locate(0)[0])
    for _ in range(2):
        assert [dataset.raw(row)[0] for row in (0, 3, 6, 9)] == [f"{row:09d}" for row in (0, 3, 6, 9)]
    assert first() is None
    assert compared == [f"{unit:06d}.arrow" for unit in range(4)]
    damaged = copy / "index" / "000000.arrow"
    damaged.write_bytes(damaged.read_bytes().replace(b"000000001", b"000000003"))
    with pytest.raises(DataError, match="index_crc32c"):
        dataset.raw(0)


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
    dataset = open_dataset(write_index(tmp_path / "d", [[row, near]]))
    places = dataset._locate(0)[0].raw()
    assert [places.key(row) for row in range(2)] == ["k0", "k1"]
    assert places.names == ("txt",)
    one, read = raw.OnePlaces(dataset._locate(0)[0].index), lambda offset, size: bytes(size)
    assert [one.sample(row, read, None) for row in range(2)] == [places.sample(row, read, None) for row in range(2)]
    firsts, offsets, ends = np.array([0, 2, 4, 4]), np.array([0, 90_000, 7, 30]), np.array([10, 90_010, 20, 35])
    starts, stops = raw._spans(firsts, offsets, ends)
    assert starts.tolist() == [0, 7, 0]
    assert stops.tolist() == [-1, 35, 0]
