"""No group is in two sets: at any seed, in any order, whatever the shares."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mmdata.steps.split import Split
from mmdata.types import Drop, Sample
from tests.steps.given import apply, build, record

names = st.one_of(st.text(max_size=3), st.integers(0, 30), st.lists(st.integers(0, 3), max_size=2))
shares = st.dictionaries(st.sampled_from(["train", "val", "test", "extra"]), st.floats(1e-3, 1e3), min_size=2)


@settings(deadline=None)
@given(st.lists(names, max_size=40), st.integers(-(2**63), 2**63), shares, st.randoms())
def test_no_group_in_two_sets(groups: list[object], seed: int, shares: dict[str, float], draw: object) -> None:
    step = Split(by="film", seed=seed, shares=shares)

    def sets(order: list[object]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name in order:
            sample = apply(step, film=name)
            assert isinstance(sample, Sample)
            found.setdefault(repr(name), set()).add(sample.meta["split"])
        return found

    first = sets(groups)
    assert all(len(one) == 1 and one <= set(shares) for one in first.values())
    shuffled = list(groups)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    assert sets(shuffled) == first


def test_one_dataset_per_set_and_all_in_one(tmp_path: Path) -> None:
    """Clips of 40 films: the three datasets part the films, and agree with the column of the one that has all."""
    records = [record("a clip", film=f"film {at % 40}", clip=at) for at in range(160)]
    step = {"kind": "split", "by": "film", "shares": {"train": 2, "val": 1, "test": 1}, "seed": 3}
    whole = build(tmp_path, records, [step], name="whole", workers=2, unit_rows=9)
    assert whole.reasons == [""] * 160
    of = {sample.meta["clip"]: sample.meta["split"] for sample in whole.samples}
    films = collections.defaultdict(set)
    for at, found in of.items():
        films[found].add(at % 40)
    assert sorted(film for found in films.values() for film in found) == list(range(40))
    assert len(films) == 3
    for name in ("train", "val", "test"):
        built = build(tmp_path, records, [{**step, "keep": name}], name=name)
        assert sorted(built.column("clip")) == sorted(at for at, found in of.items() if found == name)
        assert set(built.reasons) == {"", "split"}
        rest = {row.detail for row in built.ledger if row.reason}
        assert rest == {"train", "val", "test"} - {name}


def test_shares_are_met() -> None:
    step = Split(by="film", shares={"train": 8, "val": 1, "test": 1})
    counts = collections.Counter(step.set_of(f"film {at}") for at in range(5000))
    assert abs(counts["train"] - 4000) < 5 * 29
    assert abs(counts["val"] - 500) < 5 * 22


def test_a_record_without_a_group() -> None:
    assert apply(Split(by="film")) == Drop(reason="split_no_group", detail="no film")
    own = apply(Split(by="film", missing="own"))
    assert isinstance(own, Sample)
    assert own.meta["split"] in ("train", "val", "test")


def test_mistakes() -> None:
    with pytest.raises(ValidationError, match="no set is called 'dev'; shares names train, val, test"):
        Split(by="film", keep="dev")
    with pytest.raises(ValidationError, match="above 0"):
        Split(by="film", shares={"train": 1, "val": 0})
    with pytest.raises(Exception, match="split_column"):
        apply(Split(by="film"), film=1, split="train")
