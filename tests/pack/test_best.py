"""The choice of rule: never more bins than best-fit decreasing, windows, multiples, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmdata.pack import lower_bound, pack, pack_best_fit, packing_efficiency
from tests.pack.naive import Case, any_fit, cases, is_packing, optimum


@settings(deadline=None)
@given(cases)
@example(([6, 6, 5, 5, 4, 4, 3, 3, 2, 2], 10))
@example(([3, 3, 4, 4, 5, 5, 6] * 5, 15))
def test_never_more_bins_than_best_fit_decreasing(case: Case) -> None:
    lengths, capacity = case
    bins = pack_best_fit(lengths, capacity)
    assert is_packing(bins, lengths, capacity)
    assert len(bins) <= len(any_fit(lengths, capacity, decreasing=True, best=True))
    assert len(bins) >= lower_bound(lengths, capacity)


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_close_to_the_optimum(lengths: list[int]) -> None:
    best = optimum(sorted(lengths, reverse=True), 12)
    bins = pack_best_fit(lengths, 12)
    assert lower_bound(lengths, 12) <= best <= len(bins) <= best * 11 / 9 + 1
    assert packing_efficiency(bins, lengths, 12) == pytest.approx(sum(lengths) / 12 / len(bins))


@settings(deadline=None)
@given(cases, st.integers(1, 20))
def test_a_window_is_packed_on_its_own(case: Case, window: int) -> None:
    lengths, capacity = case
    expected = [
        [start + i for i in members]
        for start in range(0, len(lengths), window)
        for members in pack(lengths[start : start + window], capacity).tolist()
    ]
    assert pack(lengths, capacity, window=window).tolist() == expected


@settings(deadline=None)
@given(cases, st.integers(1, 16))
def test_items_padded_to_a_multiple_still_fit(case: Case, multiple: int) -> None:
    lengths, capacity = case
    room = -(-capacity // multiple) * multiple
    for members in pack(lengths, room, multiple=multiple).tolist():
        assert sum(-(-lengths[i] // multiple) * multiple for i in members) <= room


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint64])
def test_any_integer_type_packs_alike(dtype: type) -> None:
    lengths = np.random.default_rng(1).integers(1, 100, 200)
    assert pack_best_fit(lengths.astype(dtype), 100) == pack_best_fit(lengths.tolist(), 100)


def test_equal_lengths_keep_their_order() -> None:
    assert pack_best_fit([4] * 6, 8) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("lengths", [[0], [3, 11], [-1, 2]])
def test_what_cannot_be_packed_is_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="can be packed"):
        pack_best_fit(lengths, 10)


def test_fractions_unknown_rules_and_windows_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="integers"):
        pack([1.5], 10)
    with pytest.raises(ValueError, match="no packing strategy 'worst'"):
        pack([1], 10, "worst")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window"):
        pack([1], 10, window=0)


@settings(deadline=None)
@given(cases)
def test_beyond_small_sets_only_thorough_searches(case: Case) -> None:
    lengths, capacity = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmdata.pack.best.SMALL", 0)
        plain, thorough = pack(lengths, capacity), pack(lengths, capacity, "thorough")
    assert plain.tolist() == pack(lengths, capacity, "best_fit_decreasing").tolist()
    assert thorough.tolist() == pack_best_fit(lengths, capacity)
