"""Lower bounds of packing: never over the optimum, and as high as they are known to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.pack import lower_bound, pack, vector_bound
from mmdata.pack.bounds import quick_bound
from tests.pack.naive import optimum


@settings(deadline=None)
@given(st.integers(2, 40).flatmap(lambda c: st.tuples(st.lists(st.integers(1, c), max_size=8), st.just(c))))
def test_never_over_the_optimum(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    bound = lower_bound(lengths, capacity)
    assert -(-sum(lengths) // capacity) <= bound <= optimum(sorted(lengths, reverse=True), capacity)


def naive_l2(lengths: list[int], capacity: int) -> int:
    best = -(-sum(lengths) // capacity)
    for a in range(capacity // 2 + 1):
        alone = sum(x > capacity - a for x in lengths)
        over = [x for x in lengths if capacity // 2 < x <= capacity - a]
        small = sum(x for x in lengths if a <= x <= capacity // 2)
        best = max(best, alone + len(over) + max(0, -(-(small - (len(over) * capacity - sum(over))) // capacity)))
    return best


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_l2_is_the_best_of_all_its_parameters(lengths: list[int]) -> None:
    values, counts = np.unique(lengths, return_counts=True)
    for capacity in (50, 51):
        assert quick_bound(values, counts, capacity) == naive_l2(lengths, capacity)


@pytest.mark.parametrize(
    ("lengths", "capacity", "bound"),
    [
        ([34] * 6, 100, 3),  # two a bin, by a dual feasible function: their sum says 3 as well
        ([26] * 9, 100, 3),
        ([34] * 7, 100, 4),  # their sum says 3
        ([21] * 9, 100, 3),  # four a bin: their sum says 2
        ([51] * 5 + [49] * 5, 100, 5),
        ([51] * 5 + [50] * 5, 100, 8),
    ],
)
def test_known_values(lengths: list[int], capacity: int, bound: int) -> None:
    assert lower_bound(lengths, capacity) == bound == len(pack(lengths, capacity))


def test_of_nothing_and_of_vectors() -> None:
    assert lower_bound([], 10) == 0
    assert vector_bound([[1, 5], [1, 5], [1, 5]], [100, 10]) == 2
    with pytest.raises(ValueError, match="can be packed"):
        lower_bound([11], 10)
