"""MDS as its documentation says it lies, and as MosaicML Streaming itself reads it."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import PEERS
from mmdata.export import export
from mmdata.outputs import mds
from mmdata.shards.dataset import Dataset


def read(folder: Path) -> list[dict[str, bytes]]:
    """Every sample, column by column."""
    found = []
    for shard in json.loads((folder / "index.json").read_bytes())["shards"]:
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        assert hashlib.sha256(data).hexdigest() == shard["raw_data"]["hashes"]["sha256"]
        (count,) = struct.unpack_from("<I", data)
        assert count == shard["samples"]
        offsets = struct.unpack_from(f"<{count + 1}I", data, 4)
        assert offsets[-1] == len(data)
        names = shard["column_names"]
        assert names == sorted(names)
        for start in offsets[:-1]:
            sizes = struct.unpack_from(f"<{len(names)}I", data, start)
            at = start + 4 * len(names)
            sample = {}
            for name, size in zip(names, sizes, strict=True):
                sample[name] = data[at : at + size]
                at += size
            found.append(sample)
    return found


def test_pictures_come_back(captions: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mds, "SHARD_BYTES", 20_000)
    folder = export(captions.path, "mds", tmp_path / "m")
    index = json.loads((folder / "index.json").read_bytes())
    assert len(index["shards"]) > 2
    assert dict(zip(*(index["shards"][0][f"column_{part}"] for part in ("names", "encodings")), strict=True)) == {
        "image": "jpeg",
        "key": "str",
        "messages": "json",
        "meta": "json",
        "text": "str",
    }
    for ours, row in zip(captions, read(folder), strict=True):
        assert row["key"].decode() == ours.key
        assert row["image"] == ours.media[0].data
        assert row["text"].decode() == ours.texts[0].text
        assert json.loads(row["meta"]) == ours.meta


def test_several_media_have_columns_of_their_own(talks: Dataset, tmp_path: Path) -> None:
    for ours, row in zip(talks, read(export(talks.path, "mds", tmp_path / "m")), strict=True):
        data = [medium.data for medium in ours.media]
        assert [row["image_0"], row["image_1"]] == [*data, *[b""] * (2 - len(data))]
        assert json.loads(row["messages"])[-1]["content"][0]["text"] == ours.texts[-1].text


READ = """
import json, sys
from streaming import StreamingDataset
found = StreamingDataset(local=sys.argv[1], batch_size=1, validate_hash="sha256", shuffle=False)
print(json.dumps([[row["key"], row["text"], row["image"].size, row["meta"]] for row in found]))
"""


@pytest.mark.soak
def test_streaming_reads_it(captions: Dataset, tmp_path: Path) -> None:
    peer = PEERS["mosaicml-streaming"]
    if not peer.python.exists():
        pytest.skip("MosaicML Streaming is not installed: python -m benchmarks.peers")
    folder = export(captions.path, "mds", tmp_path / "m")
    done = subprocess.run([peer.python, "-c", READ, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    expected = [
        [each.key, each.texts[0].text, [each.media[0].width, each.media[0].height], each.meta] for each in captions
    ]
    assert found == expected
