"""The bound holds after every record, and nothing is rejected that would keep it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmdata.steps.balance import Balance
from tests.steps.given import build, record


def test_a_build(tmp_path: Path) -> None:
    labels = ["cat"] * 6 + ["dog", "cat", "dog", "cat", "newt", "cat"]
    step = {"kind": "balance", "by": "label", "classes": ["cat", "dog"], "slack": 2}
    built = build(tmp_path, [record("x", label=name) for name in labels], [step], workers=2, unit_rows=3)
    assert built.reasons == [*["", ""], *["balance"] * 4, "", "", "", "", "balance_class", "balance"]
    assert built.details[2] == '2 of "cat", 0 of the rarest class'
    assert built.column("label").count("cat") == 4


@given(st.lists(st.integers(0, 2), max_size=60), st.floats(1, 3), st.integers(1, 5))
def test_every_prefix_is_balanced(labels: list[int], ratio: float, slack: int) -> None:
    step = Balance(by="g", classes=(0, 1, 2), ratio=ratio, slack=slack)
    state = step.state()
    counts = [0, 0, 0]
    for label in labels:
        signature = {"balance": str(label).encode()}
        kept = state.check("k", signature) is None
        assert kept == (counts[label] + 1 <= ratio * min(counts) + slack)
        if kept:
            state.keep("k", signature)
            counts[label] += 1
        assert max(counts) <= ratio * min(counts) + slack


def test_classes() -> None:
    with pytest.raises(ValidationError, match="once"):
        Balance(by="g", classes=("a", "a"))
    with pytest.raises(ValidationError):
        Balance(by="g", classes=("a",))
