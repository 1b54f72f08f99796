"""Bin packing: lengths into as few rows of a given capacity as a fast, deterministic rule finds."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def pack_best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: each item, longest first, goes into the fullest bin that still takes it.

    Answers bins of indices into `lengths`, in the order in which they were opened; equal lengths keep their
    order (the sort is stable), equally full bins are filled oldest first, so the result is a pure function of
    the input. Raises ValueError for a length outside 1..capacity: what does not fit is the caller's to drop.
    (Johnson 1973; never more than 11/9 of the optimum plus one bin.)

    >>> pack_best_fit([7, 5, 3, 3, 2], capacity=10)   # 7+3, 5+3+2
    [[0, 2], [1, 3, 4]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    if order and not (lengths[order[-1]] >= 1 and lengths[order[0]] <= capacity):
        raise ValueError(f"lengths run from {lengths[order[-1]]} to {lengths[order[0]]}; 1 to {capacity} can be packed")
    bins: list[list[int]] = []
    rooms: list[int] = []  # the distinct amounts of room that open bins have left, ascending
    by_room: dict[int, list[int]] = {}  # room -> ascending numbers of the bins that have it left
    for i in order:
        length = lengths[i]
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            number, room = len(bins), capacity
            bins.append([])
        else:
            room = rooms[at]
            same = by_room[room]
            number = same.pop(0)
            if not same:
                del by_room[room]
                rooms.pop(at)
        bins[number].append(i)
        left = room - length
        if left:
            if left not in by_room:
                by_room[left] = []
                bisect.insort(rooms, left)
            bisect.insort(by_room[left], number)
    return bins


def packing_efficiency(bins: Sequence[Sequence[int]], lengths: Sequence[int], capacity: int) -> float:
    """Share of all rows that is filled, 0 to 1: sum of packed lengths / (bins * capacity). No bins waste nothing: 1.

    >>> packing_efficiency([[0, 2], [1, 3]], [7, 5, 3, 3], capacity=10)
    0.9
    """
    if not bins:
        return 1.0
    return sum(lengths[i] for members in bins for i in members) / (len(bins) * capacity)
