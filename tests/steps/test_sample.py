"""A keyed share: the same records in any order, at any number of workers, and inside every larger share."""

from __future__ import annotations

import random
from pathlib import Path

from mmdata.steps.sample import SampleStep
from mmdata.types import Drop
from tests.steps.given import apply, build, record


def test_order_and_workers_do_not_matter(tmp_path: Path) -> None:
    names = [f"film {at // 3}" for at in range(120)]
    step = {"kind": "sample", "fraction": 0.4, "by": "film", "seed": 5}
    one = build(tmp_path, [record("x", film=name) for name in names], [step], name="one")
    random.Random(0).shuffle(names)
    other = build(tmp_path, [record("x", film=name) for name in names], [step], name="other", workers=2, unit_rows=7)
    kept = sorted(one.column("film"))
    assert kept == sorted(other.column("film"))
    assert set(one.reasons) == {"", "sample"}
    assert all(kept.count(name) == 3 for name in kept), "a group is kept whole"


def test_shares() -> None:
    def kept(fraction: float, seed: int = 0) -> set[int]:
        step = SampleStep(fraction=fraction, by="n", seed=seed)
        return {n for n in range(4000) if not isinstance(apply(step, n=n), Drop)}

    tenth, fifth = kept(0.1), kept(0.2)
    assert tenth < fifth
    assert abs(len(tenth) - 400) < 5 * 19  # five standard deviations
    assert abs(len(fifth) - 800) < 5 * 26
    assert len(kept(0.1, seed=1) & tenth) < 100
    assert len(kept(1.0)) == 4000


def test_without_the_column_the_key_decides() -> None:
    assert apply(SampleStep(fraction=0.5, by="absent")) == apply(SampleStep(fraction=0.5))
