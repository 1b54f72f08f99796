"""Sources mixed in one build: turns by weight, resumed anywhere, names in keys, origins and meta."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import SpecError
from mmdata.sources.mixture import Mixture, _Mixed
from mmdata.spec import Record
from mmdata.specfile import bound, build_model, load_build
from mmdata.types import Origin, Sample
from tests.building import folder_of_pictures
from tests.dataset_fixture import write_dataset
from tests.sources.run import built, records, spec, states


def lay(tmp_path: Path) -> dict[str, Any]:
    """Two datasets of equal keys, a folder, and lines of which one is damaged."""
    write_dataset(tmp_path / "a", samples=4)
    write_dataset(tmp_path / "b", samples=6, meta={1: {"task": "ocr"}})
    folder_of_pictures(tmp_path / "c", 3)
    lines = [json.dumps({"image": "c/0001.jpg", "text": "one"}), "{", json.dumps({"image": "c/none.jpg", "text": "x"})]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    return {
        "kind": "mixture",
        "sources": [
            {"name": "a", "source": {"kind": "dataset", "path": str(tmp_path / "a")}},
            {"name": "b", "source": {"kind": "dataset", "path": str(tmp_path / "b")}, "limit": 3},
            {"name": "c", "source": {"kind": "folder", "path": str(tmp_path / "c")}, "weight": 2, "task": "caption"},
            {"name": "d", "source": {"kind": "jsonl", "path": str(tmp_path / "lines.jsonl")}},
        ],
    }


def test_records_of_all_sources_come_mixed_and_named(tmp_path: Path) -> None:
    dataset, rows = built(tmp_path / "out", lay(tmp_path))
    names = [row.key.partition("-")[0] for row in rows]
    assert names == ["c", "a", "b", "c", "d", "c", "a", "b", "d", "a", "b", "d", "a"]
    assert [state for name, state in zip(names, states(rows), strict=True) if name == "d"] == [
        "ok",
        "failed_permanent:bad_record",
        "failed_permanent:not_found",
    ]
    assert {state for name, state in zip(names, states(rows), strict=True) if name != "d"} == {"ok"}
    assert {row.origin for row in rows if row.key.startswith("c")} == {f"c/000{n}.jpg" for n in range(3)}
    assert len(set(dataset.keys())) == len(dataset) == 11
    for sample in dataset:
        name = sample.key.partition("-")[0]
        assert sample.meta["source"] == name
        assert sample.meta["task"] == {"c": "caption", "b-000000001": "ocr"}.get(
            sample.key if name == "b" else name, name
        )


class Counted:
    """A source of `rows` records, which may not know how many."""

    def __init__(self, rows: int, known: bool) -> None:
        self.rows, self.known = rows, known

    def inputs(self) -> list[dict[str, Any]]:
        return [{"rows": self.rows}]

    def count(self) -> int | None:
        return self.rows if self.known else None

    def records(self, start: int = 0, stop: int | None = None) -> Any:
        for row in range(start, self.rows if stop is None else min(stop, self.rows)):
            yield Record(row=row, sample=Sample(key=f"{row}", parts=(), origin=Origin(uri="x", row=row)))


PART = st.tuples(st.integers(0, 30), st.sampled_from([0.3, 1.0, 1.5, 7.0]), st.one_of(st.none(), st.integers(1, 20)))


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(PART, min_size=1, max_size=4), known=st.booleans(), start=st.integers(0, 130))
def test_shares_hold_at_every_prefix_and_any_beginning_goes_on(parts: Any, known: bool, start: int) -> None:
    def mixed() -> _Mixed:
        made: Any = []
        for number, (_, weight, limit) in enumerate(parts):
            fields = {"name": f"s{number}", "weight": weight, "limit": limit, "task": None}
            made.append(type("Part", (), {**fields, "source": Opened(parts[number][0], known)})())
        return _Mixed(tuple(made))

    class Opened:
        def __init__(self, rows: int, known: bool) -> None:
            self.rows, self.known = rows, known

        def open(self) -> Counted:
            return Counted(self.rows, self.known)

    full = list(mixed().records())
    counts = [min(rows, limit) if limit else rows for rows, _, limit in parts]
    assert len(full) == sum(counts)
    assert [record.row for record in full] == list(range(len(full)))
    assert list(mixed().records(start)) == full[start:]
    assert list(mixed().records(start, start + 7)) == full[start : start + 7]
    weights = [weight for _, weight, _ in parts]
    taken = [0] * len(parts)
    for record in full:
        taken[int(record.sample.key[1])] += 1
        if any(done == count for done, count in zip(taken, counts, strict=True)):
            break  # from here on the others share what is left
        for done, weight in zip(taken, weights, strict=True):
            assert abs(done - sum(taken) * weight / sum(weights)) < len(parts) + 1


def test_any_beginning_of_real_sources_goes_on(tmp_path: Path) -> None:
    assert len(records(lay(tmp_path))) == 13


def test_mistakes_inside_are_told_by_their_place(tmp_path: Path) -> None:
    def load(source: dict[str, Any]) -> Any:
        (tmp_path / "s.yaml").write_text(yaml.safe_dump({"source": source, "output": {"path": "out"}}))
        return load_build(str(tmp_path / "s.yaml"))

    part = {"name": "a", "source": {"kind": "folder", "path": ".", "extension": ["jpg"]}, "wieght": 2}
    with pytest.raises(SpecError) as caught:
        load({"kind": "mixture", "sources": [part, {"name": "b c", "source": {"kind": "mixture", "sources": []}}]})
    told = str(caught.value)
    assert "did you mean 'weight'?" in told
    assert "did you mean 'extensions'?" in told
    assert "sources[1].name" in told
    good = {"name": "a", "source": {"kind": "folder", "path": "."}}
    with pytest.raises(SpecError, match="a: two sources of one name"):
        load({"kind": "mixture", "sources": [good, good]})
    loaded, _ = load({"kind": "mixture", "sources": [good]})
    told_of = bound(loaded)["source"]
    assert told_of["sources"][0]["name"] == "a"
    assert "path" not in told_of["sources"][0]["source"], "where it lies changes nothing"
    assert isinstance(spec(tmp_path, {"kind": "mixture", "sources": [good]}).source, Mixture)
    assert "MixturePart" in json.dumps(build_model().model_json_schema())
