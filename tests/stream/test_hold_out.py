"""A share that is held out: parts share no picture, have all samples between them, and are told by digests alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from mmdata import StreamingDataset, build_dataset, open_dataset
from mmdata.errors import DataError
from mmdata.families import Family
from mmdata.stream.hold_out import OTHER_PART, other_part
from mmdata.stream.position import Position
from mmdata.stream.report import plan_report
from mmdata.stream.spec import StreamSpec
from mmdata.types import World
from tests.building import picture
from tests.dataset_fixture import write_dataset

PICTURES, SAMPLES = 24, 60


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several questions about each picture, and a few about none, as a build writes them."""
    folder = tmp_path_factory.mktemp("asked")
    for number in range(PICTURES):
        picture(number, (40, 30)).save(folder / f"{number}.png")
    lines: list[dict[str, Any]] = []
    for number in range(SAMPLES):
        image = {} if number % 10 == 9 else {"image": f"{number % PICTURES}.png"}
        lines.append(
            {**image, "messages": [{"role": "user", "content": f"{number}?"}, {"role": "bot", "content": "x"}]}
        )
    (folder / "lines.json").write_text(json.dumps(lines))
    spec = {
        "source": {"kind": "jsonl", "path": "lines.json"},
        "steps": [{"kind": "probe"}],
        "output": {"path": "dataset", "unit_rows": 16},
        "engine": {"workers": 1},
    }
    (folder / "build.yaml").write_text(yaml.safe_dump(spec))
    assert build_dataset(str(folder / "build.yaml"), quiet=True).samples == SAMPLES
    return folder / "dataset"


def keys(folder: Path, family: Family | None, **fields: Any) -> list[str]:
    told = {"dataset": str(folder), "max_length": 256, "template": "basic", "block_samples": 13, **fields}
    stream = StreamingDataset(StreamSpec(**told), family=family, world=World(), global_batch=2)
    return [item.key for pack, _ in stream.planner.packs(Position(), 1) for item in pack.items]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7])
def test_the_parts_are_all_and_share_no_picture(asked: Path, family: Family, share: float) -> None:
    dataset = open_dataset(asked)
    train = keys(asked, family, hold_out=share)
    held = keys(asked, family, hold_out=share, part="held_out", shuffle="none")
    assert sorted(train + held) == sorted(dataset.keys())
    shown = [{media.sha256 for key in part for media in dataset[key].media} for part in (train, held)]
    assert not shown[0] & shown[1]
    # By hand: SHA-256 of the picture's file, or of the key where there is none.
    expected = []
    for key in list(dataset.keys()):
        media = dataset[key].media
        data = media[0].data if media else key.encode()
        assert data is not None
        if int(hashlib.sha256(data).hexdigest()[:12], 16) / 16**12 < share:
            expected.append(key)
    assert sorted(held) == expected
    assert expected


def test_the_share_is_met_and_a_larger_one_holds_the_smaller(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path / "dataset", samples=400, per_shard=150))
    positions = np.random.default_rng(0).permutation(400)
    held = [~other_part(dataset, positions, share, "held_out") for share in (0.1, 0.25, 0.5)]
    assert [abs(part.mean() - share) < 0.06 for part, share in zip(held, (0.1, 0.25, 0.5), strict=True)] == [True] * 3
    assert (held[0] <= held[1]).all()
    assert (held[1] <= held[2]).all()
    assert (other_part(dataset, positions, 0.1, "train") == held[0]).all()
    assert not other_part(dataset, positions, 0.0, "train").any()


def test_what_is_left_out_is_counted(asked: Path, family: Family) -> None:
    for part, reason in OTHER_PART.items():
        spec = StreamSpec(dataset=str(asked), max_length=256, template="basic", hold_out=0.3, part=part)  # type: ignore[arg-type]
        stream = StreamingDataset(spec, family=family, world=World(), global_batch=2)
        left = plan_report(stream.planner, 1, 2).left_out
        assert set(left) == {reason}
        assert left[reason] + len(keys(asked, family, hold_out=0.3, part=part)) == SAMPLES


def test_decoded_samples_are_held_out_too(asked: Path) -> None:
    streams = [
        StreamingDataset(StreamSpec(dataset=str(asked), hold_out=0.3, part=part), world=World())  # type: ignore[arg-type]
        for part in OTHER_PART
    ]
    found = [[sample.key for sample in stream] for stream in streams]
    assert sorted(found[0] + found[1]) == sorted(open_dataset(asked).keys())
    assert all(found)


def test_nothing_held_out_is_told(asked: Path, family: Family) -> None:
    with pytest.raises(ValidationError, match="part: held_out: nothing is held out; set hold_out"):
        StreamSpec(dataset=str(asked), part="held_out")
    with pytest.raises(DataError, match="not_held_out"):
        keys(asked, family, hold_out=1e-9, part="held_out")
