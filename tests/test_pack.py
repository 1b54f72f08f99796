"""mmdata.pack against a naive best fit, the optimum of small cases, and a clock."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.pack import pack_best_fit, packing_efficiency

lengths_and_capacity = st.integers(1, 60).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=40), st.just(capacity))
)


def naive(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing as the textbook says it: look at every bin."""
    bins: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rooms = [(capacity - sum(lengths[j] for j in members), number) for number, members in enumerate(bins)]
        fitting = [(room, number) for room, number in rooms if room >= lengths[i]]
        if fitting:
            bins[min(fitting)[1]].append(i)
        else:
            bins.append([i])
    return bins


def optimum(lengths: list[int], capacity: int) -> int:
    """Fewest bins, by trying every assignment up to the renaming of bins."""
    best = len(lengths)

    def place(at: int, rooms: list[int]) -> None:
        nonlocal best
        if len(rooms) >= best:
            return
        if at == len(lengths):
            best = len(rooms)
            return
        for number in {room: number for number, room in enumerate(rooms) if room >= lengths[at]}.values():
            place(at + 1, [room - lengths[at] * (i == number) for i, room in enumerate(rooms)])
        place(at + 1, [*rooms, capacity - lengths[at]])

    place(0, [])
    return best


@given(lengths_and_capacity)
def test_same_bins_as_the_naive_form(case: tuple[list[int], int]) -> None:
    lengths, capacity = case
    bins = pack_best_fit(lengths, capacity)
    assert bins == naive(lengths, capacity)
    assert sorted(itertools.chain(*bins)) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in members) <= capacity for members in bins)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_close_to_the_optimum(lengths: list[int]) -> None:
    best = optimum(sorted(lengths, reverse=True), 12)
    bins = pack_best_fit(lengths, 12)
    assert best <= len(bins) <= best * 11 / 9 + 1
    assert packing_efficiency(bins, lengths, 12) == pytest.approx(sum(lengths) / 12 / len(bins))


def test_equal_lengths_keep_their_order() -> None:
    assert pack_best_fit([4] * 6, 8) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("lengths", [[0], [3, 11], [-1, 2]])
def test_what_cannot_be_packed_is_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="can be packed"):
        pack_best_fit(lengths, 10)


def test_nothing_packs_into_nothing() -> None:
    assert pack_best_fit([], 10) == []
    assert packing_efficiency([], [], 10) == 1.0


def test_a_block_takes_a_moment_and_fills_well() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 10_000).astype(int).clip(17, 2048).tolist()
    start = time.perf_counter()
    bins = pack_best_fit(lengths, 2048)
    assert time.perf_counter() - start < 2
    assert packing_efficiency(bins, lengths, 2048) > 0.99
