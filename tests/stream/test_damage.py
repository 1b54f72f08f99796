"""Nothing damaged is ever yielded: flipped bytes, cut files, pictures that do not decode."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmdata import StreamingDataset
from mmdata.errors import DataError, RunError
from mmdata.families import Family
from mmdata.labels import IGNORE
from mmdata.shards.dataset import Dataset
from mmdata.stream.reader import CONSTANT
from mmdata.types import Packed, Place, Sample
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
