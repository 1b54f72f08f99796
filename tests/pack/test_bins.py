"""Bins as arrays and as lists; how full they are."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings

from mmdata.pack import Bins, pack, packing_efficiency, padded_efficiency, round_up
from tests.pack.naive import Case, cases


@pytest.mark.parametrize("strategy", ["next_fit", "first_fit", "best_fit", "first_fit_decreasing", "best"])
def test_nothing_packs_into_nothing(strategy: str) -> None:
    bins = pack([], 10, strategy)  # type: ignore[arg-type]
    assert (bins.tolist(), len(bins), bins.bin_of().tolist(), bins.loads([]).tolist()) == ([], 0, [], [])
    assert packing_efficiency(bins, [], 10) == padded_efficiency(bins, []) == 1


@settings(deadline=None)
@given(cases)
def test_arrays_and_lists_say_the_same(case: Case) -> None:
    lengths, capacity = case
    bins = pack(lengths, capacity)
    members = bins.tolist()
    assert Bins.of(members).items.tolist() == bins.items.tolist()
    assert bins.loads(lengths).tolist() == [sum(lengths[i] for i in some) for some in members]
    assert all(number == bins.bin_of()[i] for number, some in enumerate(members) for i in some)
    assert packing_efficiency(bins, lengths, capacity) == packing_efficiency(members, lengths, capacity)


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        pack([1, 2, 3], 3).tolist()
        assert not gc.isenabled()
    finally:
        gc.enable()
    pack([1, 2, 3], 3).tolist()
    assert gc.isenabled()


def test_multiples_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        round_up([1], 0)
