"""Decisions of ordered steps: the same whether a state is told ahead what it will be asked or not."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.near_dup import clumpy
from mmdata.engine.local import Row
from mmdata.engine.ordered import OrderedSteps
from mmdata.sources.folder import Folder
from mmdata.spec import BuildSpec, OutputSpec, Record
from mmdata.steps.exact_dedup import ExactDedup
from mmdata.steps.limit_per import LimitPer
from mmdata.steps.near_dup import NearDup
from mmdata.types import Drop, Origin, Sample


def rows(count: int) -> list[Row]:
    """Some without a picture, some dropped by a map step after the ordered ones, some equal byte for byte."""
    made = []
    for number, value in enumerate(clumpy(count, spread=10).tolist()):
        sample = Sample(key=f"{number:06d}", parts=(), origin=Origin(uri="o", row=number))
        row = Row(Record(row=number, sample=sample))
        row.signatures = {0: {"exact_bytes": (value % 5000).to_bytes(16, "big")}}
        if number % 7:
            row.signatures[1] = {"phash": value.to_bytes(8, "big")}
        if number % 11 == 0:
            row.drop, row.step = Drop(reason="min_side", detail=""), 2
        made.append(row)
    return made


def fates(count: int, *, ahead: bool) -> list[tuple[str, str | None]]:
    spec = BuildSpec(
        source=Folder(path="in"),
        steps=(ExactDedup(of=("bytes",)), NearDup(radius=6)),
        output=OutputSpec(path="out"),
    )
    steps = OrderedSteps(spec)
    decided = rows(count)
    for row in steps.foreseen(decided) if ahead else decided:
        steps.decide(row)
    return [(row.drop.reason, row.drop.of) if row.drop else ("", None) for row in decided]


def test_decisions_are_the_same_without_foresight() -> None:
    told = fates(3_500, ahead=True)  # several blocks and, of kept hashes, a flush in one of them
    assert told == fates(3_500, ahead=False)
    reasons = np.unique([reason for reason, _ in told]).tolist()
    assert reasons == ["", "exact_dup", "min_side", "near_dup"]


@given(st.lists(st.tuples(*[st.sampled_from("abc")] * 3), max_size=40), st.integers(0, 40))
def test_steps_of_a_kind_remember_apart(groups: list[tuple[str, str, str]], midway: int) -> None:
    """Also when a later run restores them from what the index has."""
    most = (3, 2, 4)
    spec = BuildSpec(
        source=Folder(path="in"),
        steps=tuple(LimitPer(by=f"g{at}", most=limit) for at, limit in enumerate(most)),
        output=OutputSpec(path="out"),
    )
    steps, later = OrderedSteps(spec), OrderedSteps(spec)
    counts: Counter[tuple[int, str]] = Counter()
    for number, names in enumerate(groups):
        sample = Sample(key=f"{number:06d}", parts=(), origin=Origin(uri="o", row=number))
        made = [Row(Record(row=number, sample=sample)) for _ in range(2)]
        for row in made:
            row.signatures = {at: {"limit_per": name.encode()} for at, name in enumerate(names)}
        steps.decide(made[0])
        full = next((at for at, name in enumerate(names) if counts[at, name] >= most[at]), None)
        assert made[0].step == full
        if full is None:
            counts.update(enumerate(names))
        if number >= midway:
            later.decide(made[1])
            assert made[1].step == full
        elif full is None:
            later.keep(sample.key, steps.stored(made[0].signatures))


def test_the_first_of_a_kind_is_stored_under_its_plain_name() -> None:
    spec = BuildSpec(
        source=Folder(path="in"),
        steps=(LimitPer(by="a", most=1), NearDup(), LimitPer(by="b", most=1)),
        output=OutputSpec(path="out"),
    )
    signatures = {0: {"limit_per": b"a"}, 1: {"phash": b"p"}, 2: {"limit_per": b"b"}}
    assert OrderedSteps(spec).stored(signatures) == {"limit_per": b"a", "phash": b"p", "limit_per#2": b"b"}
