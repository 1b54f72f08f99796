"""Packing as textbooks say it: look at every bin, try every assignment; and cases to try it on."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

Case = tuple[list[int], int]
cases = st.integers(1, 60).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), max_size=60), st.just(capacity))
)


def any_fit(lengths: list[int], capacity: int, *, decreasing: bool, best: bool) -> list[list[int]]:
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


def next_fit(lengths: list[int], capacity: int) -> list[list[int]]:
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
