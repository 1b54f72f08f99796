"""What a spec may say of several datasets, and the errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmdata.errors import SpecError
from mmdata.specfile import load
from mmdata.stream.spec import StreamSpec

A, B = {"path": "/data/a", "weight": 1}, {"path": "/data/b", "weight": 2.5}


def spec(**fields: Any) -> StreamSpec:
    return StreamSpec.model_validate(fields)


def test_one_dataset_or_several() -> None:
    assert [each.path for each in spec(dataset="/data/a").sources] == ["/data/a"]
    mixed = spec(datasets=[A, {**B, "name": "bee"}])
    assert [each.title for each in mixed.sources] == ["a", "bee"]
    assert mixed.weighted
    assert not spec(datasets=[{"path": "/data/a", "repeat": 3}, {"path": "/data/b"}]).weighted


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "dataset: name one folder here, or several under `datasets`"),
        ({"dataset": "/data/a", "datasets": [A]}, "dataset: name one folder here, or several"),
        ({"datasets": [A, {"path": "/data/b"}]}, "datasets: b has no `weight`; give every dataset one, or none"),
        ({"datasets": [A, {**B, "path": "/other/a"}]}, "datasets: two are called a; give one a `name`"),
        ({"datasets": [{**A, "repeat": 2}, B]}, "datasets: a has a weight, .*leave out `repeat`"),
        ({"datasets": [{"path": "/data/a", "epochs": 2}]}, "datasets: a has `epochs` but no weight; use `repeat`"),
        ({"datasets": [{**A, "weight": 0}]}, "datasets: all weights are 0"),
        ({"datasets": [{**A, "weight": -1}]}, "greater than or equal to 0"),
        ({"dataset": "/data/a", "schedule": [{"at": 1, "weights": {"a": 1}}]}, "schedule: it changes weights of"),
        ({"datasets": [{"path": "/d/a"}], "schedule": [{"at": 1, "weights": {"a": 1}}]}, "schedule: datasets without"),
        (
            {"datasets": [A, B], "schedule": [{"at": 1, "weights": {"c": 1}}]},
            "schedule: no dataset is called c; .* a, b",
        ),
        ({"datasets": [A, B], "schedule": [{"at": 1, "weights": {"a": -2}}]}, "schedule: a weighs -2.0 at 1"),
        (
            {"datasets": [A, B], "schedule": [{"at": 5, "weights": {"a": 1}}, {"at": 5, "weights": {"b": 1}}]},
            "schedule: the stage at 5 follows one at 5; put them in ascending order",
        ),
    ],
)
def test_mistakes_are_named_with_a_remedy(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**fields)


def test_a_spec_file(tmp_path: Path) -> None:
    for name in ("captions", "pages"):
        (tmp_path / name).mkdir()
    file = tmp_path / "mix.yaml"
    file.write_text(
        "datasets:\n"
        "  - {path: captions, weight: 0.7}\n"
        "  - {path: pages, weight: 0.3, epochs: 4, template: document}\n"
        "weigh_by: tokens\n"
        "schedule:\n"
        "  - {at: 0, weights: {pages: 0}}\n"
        "  - {at: 2000000, weights: {captions: 0.5, pages: 0.5}, change: cosine}\n"
        "max_length: 4096\n"
    )
    loaded, _ = load(StreamSpec, str(file))
    assert [each.path for each in loaded.sources] == [str(tmp_path / "captions"), str(tmp_path / "pages")]
    assert loaded.schedule[1].change == "cosine"
    file.write_text(file.read_text().replace("weight: 0.3", "wieght: 0.3"))
    with pytest.raises(SpecError, match="wieght"):
        load(StreamSpec, str(file))
