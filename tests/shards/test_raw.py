"""Raw access gives the bytes that samples have, whatever the order asked for, and tells what has changed."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata import rng
from mmdata.errors import DataError, RunError
from mmdata.shards import dataset as shards
from mmdata.shards import index, opened, raw, retry
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.shards.index import IndexRow, Part
from tests.dataset_fixture import write_dataset
from tests.shards.test_columns import index_row, write_index


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("raw") / "d", samples=43, per_shard=16)


def expected(dataset: Dataset, position: int) -> tuple[str, dict[str, bytes | None]]:
    sample = dataset[position]
    return sample.key, {"jpg": sample.media[0].data, "txt": sample.texts[0].text.encode()}


@pytest.fixture(params=["compiled", "python"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(opened, "calls", lambda: None)


@pytest.mark.usefixtures("either")
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


@pytest.mark.usefixtures("either")
def test_neighbours_are_read_together(folder: Path) -> None:
    found = list(open_dataset(folder, integrity="off").iter_raw(range(16)))
    assert len(found) == 16
    reads = {id(part.obj): len(part.obj) for _, parts in found for part in parts.values()}
    assert len(reads) < 8
    assert max(reads.values()) <= raw.TOGETHER


@pytest.mark.usefixtures("either")
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


@pytest.mark.usefixtures("either")
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


@st.composite
def places(draw: st.DrawFn) -> list[IndexRow]:
    """Rows of a shard of about so many bytes: one part after the other as a tar has them, or anywhere and far apart,
    also behind its end; a few have no name, no bytes, or the name of another."""
    gaps = st.integers(0, 700) | st.sampled_from([raw.APART - 9, raw.APART, raw.APART + 1, 3 * raw.APART])
    sizes = st.sampled_from([0, 1, 9]) | st.integers(0, 3000)
    wild = st.integers(-5, 200_000) | st.sampled_from([2**40, -(2**63), 2**63 - 1])
    tidy, at = draw(st.integers(0, 3)) > 0, 0
    rows = []
    for number in range(draw(st.integers(1, 12))):
        parts = []
        for name in draw(st.lists(st.sampled_from(["", "txt", "jpg", "é.json"]), max_size=4)):
            offset = at + draw(gaps) if tidy else draw(wild)
            size = draw(sizes) if tidy or draw(st.booleans()) else draw(wild)
            parts.append(Part(name, "image", offset, size, int(crc32c.crc32c(SHARD[max(0, offset) :][: max(0, size)]))))
            at = offset + size
        rows.append(IndexRow(key=f"k{number}é", row=number, origin="x", origin_row=number, parts=tuple(parts)))
    return rows


SHARD = rng.generator("raw").bytes(200_000)


def taken(folder: Path, order: list[int], integrity: Any) -> list[Any]:
    """What comes of the samples at these positions, and at the end which error, if one does."""
    found: list[Any] = []
    try:
        for key, parts in open_dataset(folder, integrity=integrity).iter_raw(order):
            assert all(part.readonly and part.format == "B" for part in parts.values())
            found.append((key, [(name, bytes(part)) for name, part in parts.items()]))
    except (DataError, RunError, ValueError, OverflowError, MemoryError) as error:
        found.append((type(error), str(error)))
    return found


@settings(max_examples=150)
@given(places(), st.data(), st.sampled_from([1, 4000, raw.TOGETHER]), st.sampled_from(["off", "crc32c"]))
def test_compiled_code_gives_what_python_gives(
    tmp_path_factory: pytest.TempPathFactory, rows: list[IndexRow], data: st.DataObject, together: int, integrity: str
) -> None:
    folder = write_index(tmp_path_factory.mktemp("places") / "d", [rows])
    length = data.draw(st.sampled_from([len(SHARD), 0]) | st.integers(0, len(SHARD)))
    spoilt = data.draw(st.sampled_from([0, 0, 1]))
    (folder / "shards/000000.tar").write_bytes(bytes(each ^ spoilt for each in SHARD[:9]) + SHARD[9:length])
    rest = st.lists(st.integers(0, len(rows) - 1), max_size=6)
    order = [*data.draw(rest), *range(len(rows)), *data.draw(rest)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retry, "WAIT", 0.0)
        patch.setattr(raw, "TOGETHER", together)
        found = taken(folder, order, integrity)
        patch.setattr(opened, "calls", lambda: None)
        expected = taken(folder, order, integrity)
    # Where an index cannot be right, its good samples before that are not always read with it: more may come first.
    right = all(part.offset >= 0 <= part.size and part.offset + part.size < 2**62 for row in rows for part in row.parts)
    assert found == expected or (not right and found[: len(expected) - 1] == expected[:-1]), (found, expected)


@pytest.mark.usefixtures("either")
def test_rows_of_the_kinds_that_lie_otherwise_come_in_their_order(tmp_path: Path) -> None:
    """A row that lies apart amid others, when its neighbours are read together; and what compiled code leaves."""

    def part(name: str, offset: int, size: int) -> Part:
        return Part(name, "image", offset, size, int(crc32c.crc32c(SHARD[offset : offset + size])))

    near = [part("txt", 512, 9), part("jpg", 2048, 800)]
    far = [part("txt", 3072, 9), part("jpg", 100_000, 50)]
    twice = [part("txt", 110_000, 9), part("txt", 111_000, 7), part("", 0, 0)]
    parts = [near, far, twice, [], near, far]
    rows = [IndexRow(key=f"{n}", row=n, origin="x", origin_row=n, parts=tuple(each)) for n, each in enumerate(parts)]
    folder = write_index(tmp_path / "d", [rows])
    (folder / "shards/000000.tar").write_bytes(SHARD)
    expected = [
        (str(n), {p.name: SHARD[p.offset : p.offset + p.size] for p in each if p.name}) for n, each in enumerate(parts)
    ]
    for integrity in ("off", "crc32c"):
        for order in (range(6), [1, 2, 1], [5, 4, 3], [0, 1], []):
            found = list(open_dataset(folder, integrity=integrity).iter_raw(order))  # type: ignore[arg-type]
            assert [(key, dict(parts)) for key, parts in found] == [expected[at] for at in order]


@pytest.mark.usefixtures("either")
def test_a_shard_may_be_let_go_while_its_samples_are_taken(folder: Path) -> None:
    dataset = open_dataset(folder)
    samples = dataset.iter_raw(range(16))
    first = next(samples)
    shard = dataset._locate(0)[0]
    shard._release()
    dataset._open.clear()
    assert [key for key, _ in samples] == [f"{row:09d}" for row in range(1, 16)]
    assert {name: bytes(part) for name, part in first[1].items()} == expected(dataset, 0)[1]


@pytest.mark.parametrize("spoilt", [b"\xff" * 9, b"[1, 2, 3]", b'{"meta": 3}'])
def test_damage_that_nobody_has_looked_for_is_told_where_it_cannot_be_read(tmp_path: Path, spoilt: bytes) -> None:
    folder = write_dataset(tmp_path / "data", samples=2, meta={0: {"host": "example.org"}})
    (part,) = (part for part in open_dataset(folder).row(0).parts if part.kind == "meta")
    with open(folder / "shards" / "000000.tar", "r+b") as file:
        file.seek(part.offset)
        file.write(spoilt.ljust(part.size))
    dataset = open_dataset(folder, integrity="off")
    with pytest.raises(DataError, match="has changed") as raised:
        dataset[0]
    assert raised.value.reason == "part_crc32c"
