"""The card says what the manifest says."""

from __future__ import annotations

import json

import yaml

from mmdata.outputs import card
from mmdata.shards.dataset import Dataset


def test_numbers_and_digests(captions: Dataset) -> None:
    page = (captions.path / "README.md").read_text()
    manifest = captions.manifest
    assert "23 samples of 23 input records" in page
    assert "| ok | | 23 |" in page
    assert manifest.root_digest in page
    spec = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    assert spec == json.loads(json.dumps(manifest.spec))
    assert yaml.safe_load(page.split("---")[1]) == {"tags": ["mmdata"]}


def test_removed_samples_and_splits(captions: Dataset) -> None:
    page = card.render(captions.manifest, samples=20, splits=["test", "train"])
    assert "3 samples have been removed" in page
    files = yaml.safe_load(page.split("---")[1])["configs"][0]["data_files"]
    assert files[0] == {"split": "test", "path": "data/test-*.parquet"}
