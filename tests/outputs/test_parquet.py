"""Parquet as `datasets` reads it: equal bytes, the right features, conversations in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Image, List, load_dataset

from mmdata.errors import DataError
from mmdata.export import export
from mmdata.outputs import parquet
from mmdata.shards.dataset import Dataset


def test_pictures_come_back(captions: Dataset, tmp_path: Path) -> None:
    loaded = load_dataset(str(export(captions.path, "parquet", tmp_path / "p")), cache_dir=str(tmp_path / "c"))["train"]
    assert isinstance(loaded.features["image"], Image)
    assert loaded[3]["image"].size == (captions[3].media[0].width, captions[3].media[0].height)
    for ours, row in zip(captions, loaded.cast_column("image", Image(decode=False)), strict=True):
        assert (row["key"], row["text"]) == (ours.key, ours.texts[0].text)
        assert row["image"]["bytes"] == ours.media[0].data
        assert row["messages"] is None
        assert json.loads(row["meta"]) == ours.meta
    assert "23 samples of 23 input records" in (tmp_path / "p" / "README.md").read_text()


def test_splits_are_those_of_a_field(captions: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", 20_000)
    monkeypatch.setattr(parquet, "FILE_BYTES", 40_000)
    folder = export(captions.path, "parquet", tmp_path / "p", split_by="split")
    names = [path.name for path in sorted((folder / "data").iterdir())]
    count = sum(name.startswith("train") for name in names)
    assert count > 1
    assert f"train-00000-of-{count:05d}.parquet" in names
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "c"))
    for split in ("train", "test"):
        assert loaded[split]["key"][:] == [each.key for each in captions if each.meta["split"] == split]
    with pytest.raises(DataError, match=r"split_missing: 000000000: meta\.nothing is None"):
        export(captions.path, "parquet", tmp_path / "q", split_by="nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "p"]


def test_conversations_keep_their_order(talks: Dataset, tmp_path: Path) -> None:
    loaded = load_dataset(str(export(talks.path, "parquet", tmp_path / "p")), cache_dir=str(tmp_path / "c"))["train"]
    assert isinstance(loaded.features["images"], List)
    assert "audio" not in loaded.features
    for ours, row in zip(talks, loaded.cast_column("images", List(Image(decode=False))), strict=True):
        assert [image["bytes"] for image in row["images"]] == [medium.data for medium in ours.media]
        asked, said = row["messages"]
        assert (asked["role"], said["role"]) == ("user", "assistant")
        assert [each["type"] for each in asked["content"]] == ["image"] * len(ours.media) + ["text"]
        assert said["content"] == [{"type": "text", "text": ours.texts[-1].text}]
        assert json.loads(row["meta"])["task"] == "talk"
    assert loaded[2]["images"][1].format == "PNG"
