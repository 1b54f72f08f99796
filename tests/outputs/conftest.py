"""Two datasets: pictures with captions, all alike; and conversations with several media, or none."""

from __future__ import annotations

import json

import pytest

from mmdata.shards.dataset import Dataset, open_dataset
from tests.building import build, folder_of_pictures, picture, write_spec


@pytest.fixture(scope="package")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    place = tmp_path_factory.mktemp("captions")
    folder_of_pictures(place / "in", 23)
    for number in range(23):
        split = ("train", "test")[number % 5 == 0]
        (place / "in" / f"{number:04d}.json").write_text(json.dumps({"split": split, "score": number / 7}))
    build(write_spec(place / "s.yaml", {"kind": "folder", "path": "in"}, [{"kind": "probe"}]))
    return open_dataset(place / "out")


@pytest.fixture(scope="package")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    place = tmp_path_factory.mktemp("talks")
    (place / "in").mkdir()
    lines = []
    for number in range(12):
        names = [f"{number}_{at}.{'png' if at else 'jpg'}" for at in range(number % 3)]
        for at, name in enumerate(names):
            picture(100 * at + number).save(place / "in" / name)
        asked = "".join("<image>\n" for _ in names) + f"What about {number}?"
        said = [{"from": "human", "value": asked}, {"from": "gpt", "value": f"Nothing but {number}."}]
        lines.append(json.dumps({"image": names, "conversations": said, "task": "talk"}))
    (place / "in" / "all.jsonl").write_text("\n".join(lines))
    build(write_spec(place / "s.yaml", {"kind": "jsonl", "path": "in/all.jsonl"}, [{"kind": "probe"}]))
    return open_dataset(place / "out")
