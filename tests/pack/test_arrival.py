"""Next-fit, first-fit and best-fit against loops over every bin."""

from __future__ import annotations

from hypothesis import example, given, settings

from mmdata.pack import pack
from tests.pack.naive import Case, any_fit, cases, next_fit


@settings(deadline=None)
@given(cases)
@example(([1, 1, 1, 2, 2], 2))
def test_the_very_bins_of_the_naive_forms(case: Case) -> None:
    lengths, capacity = case
    assert pack(lengths, capacity, "next_fit").tolist() == next_fit(lengths, capacity)
    for strategy, best in (("first_fit", False), ("best_fit", True)):
        expected = any_fit(lengths, capacity, decreasing=False, best=best)
        assert pack(lengths, capacity, strategy).tolist() == expected, strategy  # type: ignore[arg-type]
