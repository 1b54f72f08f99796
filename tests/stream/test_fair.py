"""Turns against exact fractions: never further from the share than one sample, at any prefix, however it is asked."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.stream.fair import PARTS, handed_over, parts, turns

weights = st.lists(st.integers(1, 50), min_size=1, max_size=6)


def supply(data: st.DataObject, queues: int, largest: int, count: int) -> list[list[int]]:
    """Enough for each queue to have every turn."""
    some = st.lists(st.integers(0, largest), min_size=1, max_size=7)
    return [(data.draw(some) * count)[:count] for _ in range(queues)]


@settings(max_examples=80, deadline=None)
@given(weights=weights, largest=st.integers(1, 1000), data=st.data())
def test_every_prefix_is_within_one_sample_of_its_share(weights: list[int], largest: int, data: st.DataObject) -> None:
    count = 60
    amounts = supply(data, len(weights), largest, count)
    found = turns(weights, [0] * len(weights), amounts, count)
    assert len(found.order) == count
    assert found.wanted is None
    given, at = [0] * len(weights), [0] * len(weights)
    for d in found.order:
        given[d] += amounts[d][at[d]]
        at[d] += 1
        for each, weight in enumerate(weights):
            lag = Fraction(weight, sum(weights)) * sum(given) - given[each]
            assert -max(amounts[each]) <= lag <= max(map(max, amounts)), (found.order, each)
    assert found.lags == tuple(w * sum(given) - sum(weights) * g for w, g in zip(weights, given, strict=True))


@settings(max_examples=40, deadline=None)
@given(weights=weights, data=st.data())
def test_asking_in_parts_gives_the_same(weights: list[int], data: st.DataObject) -> None:
    """In other words: lags are all that has to be remembered, and it does not matter how much is known ahead."""
    amounts = supply(data, len(weights), 30, 40)
    whole = turns(weights, [0] * len(weights), amounts, 40)
    lags: tuple[int, ...] = (0,) * len(weights)
    order: list[int] = []
    known = [0] * len(weights)
    while len(order) < 40:
        drawn = [order.count(d) for d in range(len(weights))]
        ahead = [amounts[d][drawn[d] : known[d]] for d in range(len(weights))]
        found = turns(weights, lags, ahead, min(7, 40 - len(order)))
        order, lags = order + found.order, found.lags
        if found.wanted is not None:
            known[found.wanted] += data.draw(st.integers(1, 4))
    assert order == whole.order
    assert lags == whole.lags


def test_large_amounts_are_exact() -> None:
    """A million samples of 10^12 each, weights of nine digits: nothing overflows or drifts."""
    found = turns([333_333_333, 666_666_667], [0, 0], [[10**12] * 400, [10**12] * 700], 1000)
    assert (found.order.count(0), found.order.count(1)) == (333, 667)
    assert sum(found.lags) == 0


def test_weight_zero_never_comes() -> None:
    assert turns([1, 0], [0, 0], [[5] * 9, [5] * 9], 9).order == [0] * 9
    assert turns([0, 0], [0, 0], [[5], [5]], 9).order == []


@given(st.lists(st.fractions(0, 10**6), min_size=1, max_size=8))
def test_parts_add_up(weights: list[Fraction]) -> None:
    found = parts(weights)
    if not sum(weights):
        assert not any(found)
        return
    assert sum(found) == PARTS
    for weight, part in zip(weights, found, strict=True):
        assert (part > 0) == (weight > 0)
        assert abs(part - weight * PARTS / sum(weights)) <= len(weights)


@given(lags=st.lists(st.integers(-(10**15), 10**15), min_size=2, max_size=6), data=st.data())
def test_handing_over_loses_nothing(lags: list[int], data: st.DataObject) -> None:
    weights = [data.draw(st.integers(0, 3)) for _ in lags]
    weights[0] += 1
    found = handed_over(lags, weights)
    assert sum(found) == sum(lags)
    assert all(lag == 0 for lag, weight in zip(found, weights, strict=True) if not weight)
