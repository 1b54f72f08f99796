"""mmdata.pack against textbook rules that look at every bin, and against the optimum of small cases."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mmdata.pack import Bins, lower_bound, pack, pack_best_fit, packing_efficiency, padded_efficiency
from mmdata.pack.events import Runs, assemble
from mmdata.pack.slack import minimum_slack

Case = tuple[list[int], int]
cases = st.integers(1, 60).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=60), st.just(capacity))
)
Choose = Callable[[list[int]], int]


def naive(lengths: list[int], capacity: int, *, decreasing: bool, best: bool) -> list[list[int]]:
    """First or best fit as the textbook says it: look at every bin."""
    order = range(len(lengths))
    bins: list[list[int]] = []
    for i in sorted(order, key=lambda i: (-lengths[i], i)) if decreasing else order:
        rooms = [(capacity - sum(lengths[j] for j in members), number) for number, members in enumerate(bins)]
        fitting = [(room if best else 0, number) for room, number in rooms if room >= lengths[i]]
        if fitting:
            bins[min(fitting)[1]].append(i)
        else:
            bins.append([i])
    return bins


def naive_next_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    for i, length in enumerate(lengths):
        if bins and sum(lengths[j] for j in bins[-1]) + length <= capacity:
            bins[-1].append(i)
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


def is_packing(bins: list[list[int]], lengths: list[int], capacity: int) -> bool:
    return sorted(itertools.chain(*bins)) == list(range(len(lengths))) and all(
        0 < sum(lengths[i] for i in members) <= capacity for members in bins
    )


@given(cases)
@example(([1, 1, 1, 2, 2], 2))
def test_rules_give_the_very_bins_of_their_naive_forms(case: Case) -> None:
    lengths, capacity = case
    assert pack(lengths, capacity, "next_fit").tolist() == naive_next_fit(lengths, capacity)
    for strategy, decreasing, best in (
        ("first_fit", False, False),
        ("best_fit", False, True),
        ("first_fit_decreasing", True, False),
        ("best_fit_decreasing", True, True),
    ):
        expected = naive(lengths, capacity, decreasing=decreasing, best=best)
        assert pack(lengths, capacity, strategy).tolist() == expected, strategy  # type: ignore[arg-type]


@given(cases)
@example(([6, 6, 5, 5, 4, 4, 3, 3, 2, 2], 10))
@example(([3, 3, 4, 4, 5, 5, 6] * 5, 15))
def test_never_more_bins_than_best_fit_decreasing(case: Case) -> None:
    lengths, capacity = case
    bins = pack_best_fit(lengths, capacity)
    assert is_packing(bins, lengths, capacity)
    assert len(bins) <= len(naive(lengths, capacity, decreasing=True, best=True))
    assert len(bins) >= lower_bound(lengths, capacity)


@given(cases, st.integers(0, 30), st.integers(0, 300))
def test_the_search_packs_whatever_its_bounds(case: Case, enough: int, steps: int) -> None:
    lengths, capacity = case
    runs = Runs.of(np.array(lengths, np.int64), capacity)
    bins = assemble(runs, *minimum_slack(runs, capacity, enough=enough, steps=steps)).tolist()
    assert is_packing(bins, lengths, capacity)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_close_to_the_optimum(lengths: list[int]) -> None:
    best = optimum(sorted(lengths, reverse=True), 12)
    bins = pack_best_fit(lengths, 12)
    assert lower_bound(lengths, 12) <= best <= len(bins) <= best * 11 / 9 + 1
    assert packing_efficiency(bins, lengths, 12) == pytest.approx(sum(lengths) / 12 / len(bins))


def test_the_search_finds_what_best_fit_misses() -> None:
    lengths = [50, 31, 29, 26, 24, 21, 19] * 10  # two and two again make 50; best-fit decreasing pairs 50 with 31
    assert len(naive(lengths, 100, decreasing=True, best=True)) > len(pack_best_fit(lengths, 100)) == 20


@given(cases, st.integers(1, 20))
def test_a_window_is_packed_on_its_own(case: Case, window: int) -> None:
    lengths, capacity = case
    expected = [
        [start + i for i in members]
        for start in range(0, len(lengths), window)
        for members in pack(lengths[start : start + window], capacity).tolist()
    ]
    assert pack(lengths, capacity, window=window).tolist() == expected


@given(cases, st.integers(1, 16))
def test_items_padded_to_a_multiple_still_fit(case: Case, multiple: int) -> None:
    lengths, capacity = case
    room = -(-capacity // multiple) * multiple
    for members in pack(lengths, room, multiple=multiple).tolist():
        assert sum(-(-lengths[i] // multiple) * multiple for i in members) <= room


@pytest.mark.parametrize("capacity", [1 << 15, (1 << 15) + 1, 1 << 16, (1 << 16) + 1, 1 << 20])
def test_any_capacity_sorts_alike(capacity: int) -> None:
    lengths = np.random.default_rng(0).integers(1, capacity + 1, 300)
    lengths[:4] = [capacity, 1, capacity, 1]
    expected = naive(lengths.tolist(), capacity, decreasing=True, best=True)
    assert pack(lengths, capacity, "best_fit_decreasing").tolist() == expected


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


@pytest.mark.parametrize("strategy", ["next_fit", "first_fit", "best_fit", "first_fit_decreasing", "best"])
def test_nothing_packs_into_nothing(strategy: str) -> None:
    bins = pack([], 10, strategy)  # type: ignore[arg-type]
    assert (bins.tolist(), len(bins), bins.bin_of().tolist(), bins.loads([]).tolist()) == ([], 0, [], [])
    assert packing_efficiency(bins, [], 10) == padded_efficiency(bins, []) == 1


@given(cases)
def test_arrays_and_lists_say_the_same(case: Case) -> None:
    lengths, capacity = case
    bins = pack(lengths, capacity)
    members = bins.tolist()
    assert Bins.of(members).items.tolist() == bins.items.tolist()
    assert bins.loads(lengths).tolist() == [sum(lengths[i] for i in some) for some in members]
    assert all(number == bins.bin_of()[i] for number, some in enumerate(members) for i in some)
    assert packing_efficiency(bins, lengths, capacity) == packing_efficiency(members, lengths, capacity)
