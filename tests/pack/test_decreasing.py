"""First-fit and best-fit decreasing, over runs, against loops over every item and bin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings

from mmdata.pack import pack
from tests.pack.naive import Case, any_fit, cases


@settings(deadline=None)
@given(cases)
@example(([1, 1, 1, 2, 2], 2))
def test_the_very_bins_of_the_naive_forms(case: Case) -> None:
    lengths, capacity = case
    for strategy, best in (("first_fit_decreasing", False), ("best_fit_decreasing", True)):
        expected = any_fit(lengths, capacity, decreasing=True, best=best)
        assert pack(lengths, capacity, strategy).tolist() == expected, strategy  # type: ignore[arg-type]


@pytest.mark.parametrize("capacity", [1 << 15, (1 << 15) + 1, 1 << 16, (1 << 16) + 1, 1 << 20])
def test_any_capacity_sorts_alike(capacity: int) -> None:
    lengths = np.random.default_rng(0).integers(1, capacity + 1, 300)
    lengths[:4] = [capacity, 1, capacity, 1]
    expected = any_fit(lengths.tolist(), capacity, decreasing=True, best=True)
    assert pack(lengths, capacity, "best_fit_decreasing").tolist() == expected
