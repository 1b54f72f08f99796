"""What a spec may say of several datasets, and the errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdata.errors import SpecError
from mmdata.families import Family
from mmdata.specfile import load
from mmdata.stream.cost import loads
from mmdata.stream.extent import extent, planner
from mmdata.stream.position import Position
from mmdata.stream.spec import StreamSpec
from mmdata.templates import get_template
from mmdata.testing.synthetic import SyntheticDataset, SyntheticLengths

A, B = {"path": "/data/a", "weight": 1}, {"path": "/data/b", "weight": 2.5}


def spec(**fields: Any) -> StreamSpec:
    return StreamSpec.model_validate(fields)


def test_a_mixture_is_read_back_from_its_own_dump(tmp_path: Path) -> None:
    """`dataset` is empty there, and no path: it is not the folder that the file lies in."""
    mixed = spec(datasets=[{"path": str(tmp_path)}, {"path": str(tmp_path / "..")}])
    (tmp_path / "spec.json").write_text(mixed.model_dump_json())
    assert load(StreamSpec, str(tmp_path / "spec.json"))[0].dataset == ""


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
        (
            {"datasets": [{"path": "/data/a", "weight": 1}], "epochs": 2},
            "epochs: 2 says nothing of datasets with weights",
        ),
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


@pytest.mark.parametrize("weigh_by", ["tokens", "cost"])
def test_realised_shares_of_real_packs(weigh_by: str, monkeypatch: pytest.MonkeyPatch, family: Family) -> None:
    """Within half a percentage point of the target over every prefix of 1,000 packs and more, each pack counted whole:
    datasets of captioned pictures, planned, packed best-fit and spread as a run does it."""
    monkeypatch.setattr("mmdata.stream.measure.Lengths", SyntheticLengths)
    weights = {"a": 0.55, "b": 0.3, "c": 0.14, "d": 0.01}
    datasets = [{"path": f"/{name}", "weight": weight} for name, weight in weights.items()]
    made = spec(datasets=datasets, max_length=1024, weigh_by=weigh_by, block_samples=5000)
    held: Any = [
        SyntheticDataset(size, name=name) for size, name in zip((10**7, 10**6, 3000, 500), weights, strict=True)
    ]
    template = get_template("caption", tokenizer=family.tokenizer, markers=family.markers)
    plan = planner(held, made, family, [template] * 4, extents=[extent(held)], control=None)
    given, at, packs = np.zeros(4), Position(), 0
    while packs < 1600:
        block = plan.block(at)
        measured = block.measured
        amounts = measured.tokens.astype(float)
        if weigh_by == "cost":
            rows = np.stack([measured.tokens, measured.tokens**2, measured.patches, measured.mel_frames], axis=1)
            amounts = loads(rows, made.costs)[:, 0]
        of_each = np.stack([np.where(measured.draws.dataset == d, amounts, 0) for d in range(4)], axis=1)
        sums = np.cumsum(np.add.reduceat(of_each[block.bins.items], block.bins.offsets[:-1]), axis=0) + given
        numbers = packs + 1 + np.arange(len(sums))
        off = np.abs(sums / sums.sum(1, keepdims=True) - list(weights.values()))
        assert off[numbers >= 1000].max(initial=0) < 0.005
        assert off[numbers >= 100].max(initial=0) < 0.02
        given, at, packs = sums[-1], block.after, packs + len(sums)
    assert np.abs(given / given.sum() - list(weights.values())).max() < 0.002
