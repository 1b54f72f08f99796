"""Decisions of ordered steps: the same whether a state is told ahead what it will be asked or not."""

from __future__ import annotations

import numpy as np

from benchmarks.near_dup import clumpy
from mmdata.engine.local import Row
from mmdata.engine.ordered import OrderedSteps
from mmdata.sources.folder import Folder
from mmdata.spec import BuildSpec, OutputSpec, Record
from mmdata.steps.exact_dedup import ExactDedup
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
