"""Rules that take items as they come: next-fit, first-fit and best-fit."""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from mmdata.pack.bins import Bins


def next_fit(lengths: npt.NDArray[np.int64], capacity: int) -> Bins:
    """An item goes into the bin before it or opens a new one: bins are stretches of the input."""
    ends = np.cumsum(lengths)
    offsets = [0]
    while offsets[-1] < len(lengths):
        start = offsets[-1]
        before = int(ends[start - 1]) if start else 0
        offsets.append(int(np.searchsorted(ends, before + capacity, side="right")))
    return Bins(items=np.arange(len(lengths)), offsets=np.array(offsets, np.int64))


def first_fit(lengths: npt.NDArray[np.int64], capacity: int) -> Bins:
    """An item goes into the oldest bin that takes it. A tree of the largest rooms finds it in log(bins) steps."""
    leaves = 1
    tree = [0, capacity]  # node n has the children 2n and 2n + 1; a bin that is not open yet has all its room
    bin_of = np.empty(len(lengths), np.int64)
    for i, length in enumerate(lengths.tolist()):
        if tree[1] < length:
            tree = _doubled(tree, leaves, capacity)
            leaves *= 2
        node = 1
        while node < leaves:
            node *= 2
            if tree[node] < length:
                node += 1
        bin_of[i] = node - leaves
        tree[node] -= length
        while node > 1:
            node //= 2
            left, right = tree[2 * node], tree[2 * node + 1]
            tree[node] = left if left >= right else right
    return _grouped(bin_of)


def best_fit(lengths: npt.NDArray[np.int64], capacity: int) -> Bins:
    """An item goes into the fullest bin that takes it, the oldest of several alike."""
    rooms: list[int] = []  # the amounts of room that open bins have left, ascending
    by_room: dict[int, list[int]] = {}  # room -> a heap of the bins that have it left
    bin_of = np.empty(len(lengths), np.int64)
    opened = 0
    for i, length in enumerate(lengths.tolist()):
        at = bisect_left(rooms, length)
        if at == len(rooms):
            number, room = opened, capacity
            opened += 1
        else:
            room = rooms[at]
            number = heappop(by_room[room])
            if not by_room[room]:
                del by_room[room], rooms[at]
        bin_of[i] = number
        if room - length in by_room:
            heappush(by_room[room - length], number)
        elif room > length:
            by_room[room - length] = [number]
            insort(rooms, room - length)
    return _grouped(bin_of)


def _doubled(tree: list[int], leaves: int, capacity: int) -> list[int]:
    """The tree with as many empty bins again behind its own."""
    result = [0, capacity]
    level = 1
    while level <= leaves:
        result += tree[level : 2 * level] + [capacity] * level
        level *= 2
    return result


def _grouped(bin_of: npt.NDArray[np.int64]) -> Bins:
    """Bins 0..B-1 from the bin of each item; items keep their order."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(bin_of))]).astype(np.int64)
    return Bins(items=np.argsort(bin_of, kind="stable"), offsets=offsets)
