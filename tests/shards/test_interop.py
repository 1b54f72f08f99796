"""The shards as others read them: webdataset, datasets and tarfile give the bytes that our index gives."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.types import Sample
from tests.building import build, folder_of_pictures, write_spec


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("interop")
    folder_of_pictures(folder / "in", 23)
    for number in range(23):
        (folder / "in" / f"{number:04d}.json").write_text(json.dumps({"licence": "ours", "score": number / 7}))
    build(write_spec(folder / "s.yaml", {"kind": "folder", "path": "in"}, [{"kind": "probe"}]))
    return open_dataset(folder / "out")


def shards(dataset: Dataset) -> list[str]:
    return [str(path) for path in sorted((dataset.path / "shards").glob("*.tar"))]


def test_webdataset_reads_equal_bytes(dataset: Dataset) -> None:
    import webdataset as wds

    found = list(wds.WebDataset(shards(dataset), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == dataset.keys()
    for sample in found:
        ours = dataset[sample["__key__"]]
        assert sample["jpg"] == ours.media[0].data
        assert sample["txt"].decode() == ours.texts[0].text
        assert json.loads(sample["json"])["meta"] == ours.meta


def test_webdataset_decodes_with_its_own_decoders(dataset: Dataset) -> None:
    import webdataset as wds

    first = next(iter(wds.WebDataset(shards(dataset), shardshuffle=False).decode("pil").to_tuple("jpg", "txt", "json")))
    ours = dataset[0]
    assert first[0].size == (ours.media[0].width, ours.media[0].height)
    assert first[1] == ours.texts[0].text
    assert first[2]["key"] == ours.key


def test_datasets_reads_equal_bytes(dataset: Dataset, tmp_path: Path) -> None:
    from datasets import Image, load_dataset

    loaded = load_dataset("webdataset", data_files=shards(dataset), split="train", cache_dir=str(tmp_path))
    rows = list(loaded.cast_column("jpg", Image(decode=False)))
    assert [row["__key__"] for row in rows] == dataset.keys()
    for row in rows:
        ours = dataset[row["__key__"]]
        assert row["jpg"]["bytes"] == ours.media[0].data
        assert row["txt"] == ours.texts[0].text
        assert row["json"]["meta"] == ours.meta


def test_tarfile_finds_each_part_where_the_index_says(dataset: Dataset) -> None:
    for path in shards(dataset):
        with tarfile.open(path) as reader:
            members = {member.name: (member.offset_data, member.size) for member in reader}
        number = int(Path(path).stem)
        rows = [dataset.row(at) for at in range(len(dataset)) if dataset.ref(at).shard == number]
        assert members == {f"{row.key}.{part.name}": (part.offset, part.size) for row in rows for part in row.parts}


def test_several_media_are_numbered_in_token_order(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "images", 4, captions=False)
    lines = [{"image": ["0000.jpg", "0001.jpg"], "text": "two"}, {"image": "images/../0002.jpg", "text": "one"}]
    (tmp_path / "images" / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    build(write_spec(tmp_path / "s.yaml", {"kind": "jsonl", "path": "images/data.jsonl"}, [{"kind": "probe"}]))
    dataset = open_dataset(tmp_path / "out")
    assert [part.name for part in dataset.row(0).parts] == ["0.jpg", "1.jpg", "2.txt", "json"]
    assert [part.name for part in dataset.row(1).parts] == ["jpg", "txt", "json"]
    originals = [(tmp_path / "images" / f"{n:04d}.jpg").read_bytes() for n in range(3)]
    first: Sample = dataset[0]
    assert [media.data for media in first.media] == originals[:2]
    assert dataset[1].media[0].data == originals[2]
