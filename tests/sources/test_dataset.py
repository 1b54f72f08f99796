"""Our own datasets as a source: filtered and sharded again under the same keys, removals honoured, damage told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmdata.errors import DataError
from mmdata.forget import forget
from mmdata.shards.dataset import open_dataset
from mmdata.sources.dataset import OwnDataset
from tests.dataset_fixture import write_dataset
from tests.sources.run import built, records, states


def test_a_dataset_is_filtered_and_sharded_again(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", samples=9, per_shard=4, text_only={5}, meta={1: {"score": 3}})
    before = open_dataset(tmp_path / "a")
    keys = before.keys()
    sizes = {sample.key: sample.media[0].height or 0 for sample in before if sample.media}
    least = sorted(sizes.values())[2]  # two are lower
    forget(tmp_path / "a", [keys[3]], reason="its owner asked")
    place = before.sample(7, media=False).media[0].place
    assert place is not None
    with open(tmp_path / "a" / "shards" / "000001.tar", "r+b") as file:
        file.seek(place.offset + 9)
        file.write(b"\xff")
    source = {"kind": "dataset", "path": str(tmp_path / "a")}
    dataset, rows = built(
        tmp_path / "out", source, [{"kind": "where", "expression": f"is_null(height) or height >= {least}"}]
    )
    assert rows[3].detail == "its owner asked"
    found = dict(zip((row.key for row in rows), states(rows), strict=True))
    assert list(found) == keys
    assert found[keys[3]] == "filtered:forgotten"
    assert found[keys[7]] == "failed_permanent:part_crc32c"
    assert {key for key in keys if found[key] == "filtered:where"} == {
        key for key in keys if sizes.get(key, least) < least and key not in (keys[3], keys[7])
    }
    assert len(dataset) == 9 - len([state for state in found.values() if state != "ok"])
    for sample in dataset:
        was = before[sample.key]
        assert [part for part in sample.parts if part not in was.parts] == []
        assert [media.data for media in sample.media] == [media.data for media in was.media]
        assert (sample.meta, sample.origin) == (was.meta, was.origin)
        assert [media.verified for media in sample.media] == [media.verified for media in was.media]


def test_records_read_no_media_and_follow_the_data(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", samples=5, per_shard=2)
    source = {"kind": "dataset", "path": str(tmp_path / "a")}
    found = records(source)
    assert all(media.data is None for record in found for media in record.sample.media)
    opened = OwnDataset(path=str(tmp_path / "a")).open()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert OwnDataset(path=str(tmp_path / "b")).open().inputs() == opened.inputs()
    forget(tmp_path / "b", [found[0].sample.key], reason="")
    assert OwnDataset(path=str(tmp_path / "b")).open().inputs() != opened.inputs()
    (tmp_path / "a" / "shards" / "000001.tar").unlink()
    assert [record.drop for record in records(source)][:2] == [None, None]


def test_what_is_no_dataset_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="manifest_missing"):
        OwnDataset(path=str(tmp_path / "empty")).open()
