"""Energon's metadata: the files that `energon prepare` makes of the same tars, and what Energon reads by them."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.peers import PEERS
from mmdata.errors import DataError, SpecError
from mmdata.export import export
from mmdata.forget import forget
from mmdata.shards.dataset import Dataset
from mmdata.verify import verify_dataset


@pytest.fixture
def folder(captions: Dataset, tmp_path: Path) -> Path:
    return export(shutil.copytree(captions.path, tmp_path / "d"), "energon")


def tables(folder: Path) -> dict[str, list[Any]]:
    with sqlite3.connect(folder / ".nv-meta" / "index.sqlite") as connection:
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in ("samples", "sample_parts")}


def test_every_member_is_where_it_says(captions: Dataset, folder: Path) -> None:
    """By the bytes: a part's place holds the part, a sample's place begins with the header that names its first."""
    found = tables(folder)
    info = json.loads((folder / ".nv-meta" / ".info.json").read_bytes())["shard_counts"]
    tars = [(folder / name).read_bytes() for name in info]
    assert [key for _, key, *_ in found["samples"]] == captions.keys()
    for tar, at, name, offset, size in found["sample_parts"]:
        sample = captions[sum(list(info.values())[:tar]) + at]
        if name == "jpg":
            assert tars[tar][offset : offset + size] == sample.media[0].data
    for tar, key, _, offset, size in found["samples"]:
        assert tars[tar][offset:].startswith(key.encode())
        assert size % 512 == 0
    for number, name in enumerate(info):
        offsets = np.fromfile((folder / name).with_suffix(".tar.idx"), "<u8").tolist()
        mine = [row for row in found["samples"] if row[0] == number]
        assert offsets == [*(row[3] for row in mine), mine[-1][3] + mine[-1][4]]
        assert tars[number][offsets[-1] :].strip(b"\0") == b""


def test_the_dataset_stays_whole(folder: Path) -> None:
    assert verify_dataset(folder).problems == []
    index = next((folder / "shards").glob("*.tar.idx"))
    index.write_bytes(index.read_bytes()[:-8])
    assert [problem.partition(":")[0] for problem in verify_dataset(folder).problems] == ["energon_index"]
    index.rename(index.with_name("other.tar.idx"))
    assert [problem.partition(":")[0] for problem in verify_dataset(folder).problems] == ["file_unknown"]


def test_what_energon_would_read_wrongly_is_refused(captions: Dataset, tmp_path: Path) -> None:
    copy = shutil.copytree(captions.path, tmp_path / "d")
    with pytest.raises(SpecError, match="takes no --output"):
        export(copy, "energon", tmp_path / "x")
    forget(copy, ["000000003"], "opt_out")
    with pytest.raises(DataError, match="removed_samples"):
        export(copy, "energon")
    assert not (copy / ".nv-meta" / "index.sqlite").exists()


def test_conversations_are_crude_samples(talks: Dataset, tmp_path: Path) -> None:
    folder = export(shutil.copytree(talks.path, tmp_path / "d"), "energon")
    described = yaml.safe_load((folder / ".nv-meta" / "dataset.yaml").read_bytes())
    assert described == {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}


READ = """
import json, sys
from megatron.energon import WorkerConfig, get_savable_loader, get_train_dataset
one = WorkerConfig(rank=0, world_size=1, num_workers=0)
made = get_train_dataset(sys.argv[1], worker_config=one, batch_size=1, shuffle_buffer_size=None,
                         max_samples_per_sequence=None, repeat=False)
found = [[batch.__key__[0], batch.caption[0], list(batch.image.shape[-2:])] for batch in get_savable_loader(made)]
print(json.dumps(found))
"""


@pytest.mark.soak
def test_energon_reads_it_and_would_have_made_the_same(captions: Dataset, folder: Path, tmp_path: Path) -> None:
    python = PEERS["energon"].python
    if not python.exists():
        pytest.skip("Energon is not installed: python -m benchmarks.peers")
    done = subprocess.run([python, "-c", READ, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    expected = [[each.key, each.texts[0].text, [each.media[0].height, each.media[0].width]] for each in captions]
    assert sorted([key.rpartition("/")[2], *rest] for key, *rest in found) == expected
    theirs = shutil.copytree(captions.path, tmp_path / "theirs")
    prepare = [python.with_name("energon"), "prepare", theirs, "--non-interactive", "--split-ratio", "1,0,0"]
    made = subprocess.run([*prepare, "--sample-type", "CaptioningSample"], capture_output=True, text=True, check=False)
    assert (theirs / ".nv-meta" / "index.sqlite").exists(), made.stdout + made.stderr
    assert {name: sorted(rows) for name, rows in tables(theirs).items()} == {
        name: sorted(rows) for name, rows in tables(folder).items()
    }
    for path in (folder / "shards").glob("*.tar.idx"):
        assert path.read_bytes() == (theirs / "shards" / path.name).read_bytes()
