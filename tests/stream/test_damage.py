"""Nothing damaged is ever yielded: flipped bytes, cut files, pictures that do not decode."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from mmdata import StreamingDataset, StreamLoader, open_dataset
from mmdata.errors import DataError, RunError
from mmdata.families import Family
from mmdata.labels import IGNORE
from mmdata.shards.dataset import Dataset
from mmdata.stream.reader import CONSTANT
from mmdata.stream.spec import Failures, StreamSpec
from mmdata.types import Packed, Place, Sample, World
from mmdata.views.augment import Augment
from tests.dataset_fixture import jpeg, write_dataset

SAMPLES = 6


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("damage") / "dataset", samples=SAMPLES, per_shard=3)


def samples(folder: Path) -> dict[str, Sample]:
    return {sample.key: sample for sample in StreamingDataset(folder) if isinstance(sample, Sample)}


def damaged(folder: Path, tmp_path: Path, name: str) -> Iterator[Path]:
    """Copies of a dataset, each with one flipped bit or one cut in the file `name`."""
    draw = random.Random(name)
    data = (folder / name).read_bytes()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for number in range(60):
        at = draw.randrange(len(data))
        changed = bytearray(data)
        if number % 6:
            changed[at] ^= 1 << draw.randrange(8)
        else:
            del changed[at:]
        (copy / name).write_bytes(changed)
        yield copy


@pytest.mark.parametrize("name", ["shards/000001.tar", "index/000000.arrow", "manifest.json"])
def test_a_changed_byte_is_never_yielded(sound: Path, tmp_path: Path, name: str) -> None:
    expected = samples(sound)
    caught = 0
    for copy in damaged(sound, tmp_path, name):
        try:
            found = samples(copy)
        except DataError:
            caught += 1
            continue
        assert all(expected[key] == sample for key, sample in found.items())
        caught += len(found) < len(expected)
    assert caught >= 45


@pytest.mark.parametrize("name", ["shards/000001.tar", "index/000000.arrow"])
def test_a_changed_byte_never_enters_a_pack(sound: Path, tmp_path: Path, name: str, family: Family) -> None:
    def packs(folder: Path) -> list[Packed]:
        stream = StreamingDataset(folder, family=family, max_length=128)
        return [pack for pack in stream if isinstance(pack, Packed)]

    expected = packs(sound)
    caught = 0
    for copy in damaged(sound, tmp_path, name):
        try:
            found = packs(copy)
        except DataError:
            caught += 1
            continue
        caught += any(pack.masked for pack in found)
        for before, after in zip(expected, found, strict=True):
            check_masked(before, after)
    assert caught >= 45


def check_masked(before: Packed, after: Packed) -> None:
    """`after` is `before`, except that masked samples train nothing and show nothing."""
    masked = dict(after.masked)
    assert after.keys == before.keys
    assert np.array_equal(after.cu_seqlens, before.cu_seqlens)
    assert after.slots == before.slots or masked
    for number, key in enumerate(after.keys):
        tokens = slice(*after.cu_seqlens[number : number + 2])
        pixels, planned = after.media["pixel_values"][number], before.media["pixel_values"][number]
        if key in masked:
            assert (after.labels[tokens] == IGNORE).all()
            assert (after.loss_weights[tokens] == 0).all()
            assert pixels.shape == planned.shape
            assert (pixels == CONSTANT).all()
        else:
            assert np.array_equal(after.input_ids[tokens], before.input_ids[tokens])
            assert np.array_equal(after.labels[tokens], before.labels[tokens])
            assert np.array_equal(pixels, planned)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg(2)[0][:-900], "truncated_image"),
        (b"<html>gone</html>", "html_not_image"),
        (jpeg(3)[0], "facts_mismatch"),
    ],
)
def test_what_does_not_decode_as_planned_is_masked_in_its_place(
    sound: Path, tmp_path: Path, family: Family, data: bytes, reason: str
) -> None:
    folder = write_dataset(tmp_path / "dataset", samples=SAMPLES, per_shard=3, instead={2: data})
    stream = StreamingDataset(folder, family=family, max_length=128)
    found = list(stream)
    for before, after in zip(StreamingDataset(sound, family=family, max_length=128), found, strict=True):
        check_masked(before, after)
    assert [item for pack in found for item in pack.masked] == [("000000002", reason)]
    assert stream.bad == {reason: 1}
    plain = StreamingDataset(folder)
    assert sorted(sample.key for sample in plain) == [f"{row:09d}" for row in range(SAMPLES) if row != 2]
    assert plain.bad == {reason: 1}


def spoil_texts(folder: Path, rows: range | list[int]) -> dict[Path, bytes]:
    """One bit flipped in the text of each of these rows; what the shards held before."""
    dataset, before = open_dataset(folder), dict[Path, bytes]()
    for row in rows:
        path = folder / "shards" / f"{dataset.ref(row).shard:06d}.tar"
        (place,) = (part.place for part in dataset.row(row).parts if part.kind == "text")
        assert place is not None
        data = bytearray(path.read_bytes())
        before.setdefault(path, bytes(data))
        data[place.offset] ^= 4
        path.write_bytes(data)
    return before


@pytest.mark.parametrize(
    "fields",
    [
        {"max_length": 128},
        {"max_length": 128, "augment": Augment(flip=0.5)},
        {"packing": "none", "max_length": 128},
    ],
    ids=["counted", "augmented", "rows"],
)
def test_a_text_that_cannot_be_counted_is_a_masked_sample_on_every_topology(
    tmp_path: Path, family: Family, fields: dict[str, Any]
) -> None:
    folder = write_dataset(tmp_path / "dataset", samples=20, per_shard=8)
    before = spoil_texts(folder, [3, 17])
    spec = StreamSpec(dataset=str(folder), **fields)

    def stream(rank: int = 0, ranks: int = 1) -> StreamingDataset:
        return StreamingDataset(spec, family=family, world=World(rank=rank, ranks=ranks), global_batch=4)

    def told(packs: Iterable[Any]) -> list[tuple[tuple[str, ...], tuple[tuple[str, str], ...]]]:
        return [(pack.keys, pack.masked) for pack in packs if pack.keys]

    alone = stream()
    packs = list(alone)
    expected = told(packs)
    assert sorted(key for keys, _ in expected for key in keys) == [f"{row:09d}" for row in range(20)]
    assert sorted(bad for _, masked in expected for bad in masked) == [
        ("000000003", "part_crc32c"),
        ("000000017", "part_crc32c"),
    ]
    assert alone.bad == {"part_crc32c": 2}
    for pack in packs:
        assert isinstance(pack, Packed)
        for number in pack.masked_segments:
            tokens = slice(*pack.cu_seqlens[number : number + 2])
            assert (pack.labels[tokens] == IGNORE).all()
            assert (pack.media["pixel_values"][number] == CONSTANT).all()
    two = [told(stream(rank, 2)) for rank in range(2)]
    assert sorted(two[0] + two[1]) == sorted(expected)
    assert told(DataLoader(stream(), batch_size=None, num_workers=2, multiprocessing_context="fork")) == expected
    loading = stream()
    assert told(StreamLoader(loading, _itself)) == expected
    assert loading.bad == alone.bad
    assert not list((folder / "lengths").rglob("000000.arrow")), "counts of damaged texts are not kept"
    for path, data in before.items():
        path.write_bytes(data)
    repaired = stream()
    assert not [pack for pack in repaired if pack.masked]
    assert not repaired.bad


def test_a_text_that_is_to_be_cut_and_was_spoilt_since_it_was_counted_is_masked(tmp_path: Path, family: Family) -> None:
    folder = write_dataset(tmp_path / "dataset", samples=20, per_shard=8)
    spec = StreamSpec(dataset=str(folder), max_length=40, overlong="truncate_text")
    before = StreamingDataset(spec, family=family)
    kept = {key for pack in before for key in pack.keys}
    long = next(row for row in range(20) if f"{row:09d}" not in kept)
    spoil_texts(folder, [long])
    after = StreamingDataset(spec, family=family)
    assert {key for pack in after for key in pack.keys} == kept | {f"{long:09d}"}
    assert after.bad == {"part_crc32c": 1}


def _itself(pack: Packed) -> Packed:
    return pack


def test_texts_that_cannot_be_counted_stop_the_run_by_its_budget(tmp_path: Path, family: Family) -> None:
    folder = write_dataset(tmp_path / "dataset", samples=12, per_shard=4)
    spoil_texts(folder, range(4, 8))
    spec = StreamSpec(dataset=str(folder), max_length=128, shuffle="none", failures=Failures(consecutive=4))
    assert StreamingDataset(spec, family=family).block().packs, "to plan is not to fail"
    spec = spec.model_copy(update={"packing": "none"})
    with pytest.raises(RunError, match=r"4 records in a row have failed.* shard 1 row 3 000000007: part_crc32c"):
        list(StreamingDataset(spec, family=family))


def test_a_broken_dataset_stops_the_run(tmp_path: Path, family: Family) -> None:
    broken = dict.fromkeys(range(140), b"<html>gone</html>")
    folder = write_dataset(tmp_path / "dataset", samples=140, per_shard=140, instead=broken)
    with pytest.raises(RunError, match=r"100 records in a row have failed.* shard 0 row \d+ 000000\d+: html_not_image"):
        list(StreamingDataset(folder, family=family, max_length=128))


def test_storage_that_fails_is_tried_again_and_then_stops_the_run(
    sound: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = StreamingDataset(sound, family=family, max_length=128)
    expected = [pack.keys for pack in stream]
    original, failures = Dataset.read, [2]

    def flaky(self: Dataset, position: int, place: Place) -> bytes:
        if failures[0]:
            failures[0] -= 1
            raise OSError(5, "Input/output error")
        return original(self, position, place)

    monkeypatch.setattr(Dataset, "read", flaky)
    monkeypatch.setattr("mmdata.shards.retry.WAIT", 0.001)
    assert [pack.keys for pack in stream] == expected
    assert not stream.bad
    failures[0] = 1000
    with pytest.raises(RunError, match="failed 4 times"):
        list(stream)
