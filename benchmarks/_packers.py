"""The packing rules of other projects, written anew from what they publish, as functions from lengths to bins."""

from __future__ import annotations

import bisect
from collections import defaultdict, deque
from collections.abc import Sequence

Packed = list[list[int]]


def greedy_knapsack(lengths: Sequence[int], capacity: int) -> Packed:
    """Megatron-LM (`examples/multimodal`) and Energon's example: sort once; fill a bin with the largest item that fits,
    found by bisection and taken out of the list, until none does."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    sizes = [lengths[i] for i in order]
    bins: Packed = []
    while sizes:
        room, members = capacity, []
        while (at := bisect.bisect(sizes, room)) > 0:
            room -= sizes.pop(at - 1)
            members.append(order.pop(at - 1))
        bins.append(members)
    return bins


def trl_bfd(lengths: Sequence[int], capacity: int) -> Packed:
    """TRL `packing_strategy="bfd"`, without its gathering of tokens: best-fit decreasing through a segment tree over
    the amounts of room that bins have left, each with a queue of bins."""
    leaves = 1 << (capacity - 1).bit_length()
    tree = [0] * (2 * leaves)

    def change(room: int, value: int) -> None:
        node = leaves + room - 1
        tree[node] = value
        while node > 1:
            node >>= 1
            left, right = tree[2 * node], tree[2 * node + 1]
            tree[node] = left if left >= right else right

    change(capacity, capacity)
    by_room: dict[int, deque[list[int]]] = defaultdict(deque)
    bins: Packed = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        node = 1
        while node < leaves:
            node = 2 * node if tree[2 * node] >= lengths[i] else 2 * node + 1
        room = tree[node]
        if room < capacity:
            members = by_room[room].popleft()
            if not by_room[room]:
                change(room, 0)
        else:
            members = []
            bins.append(members)
        members.append(i)
        left = room - lengths[i]
        by_room[left].append(members)
        if left:
            change(left, left)
    return bins


def nanovlm(lengths: Sequence[int], capacity: int) -> Packed:
    """nanoVLM's balanced greedy knapsack: ceil(sum / capacity) + 5 empty bins; longest first into the emptiest bin that
    takes it, all of them sorted by load for every item."""
    loads = [0] * (-(-sum(lengths) // capacity) + 5)
    bins: Packed = [[] for _ in loads]
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for number in sorted(range(len(loads)), key=loads.__getitem__):
            if loads[number] + lengths[i] <= capacity:
                break
        else:
            number = len(loads)
            loads.append(0)
            bins.append([])
        loads[number] += lengths[i]
        bins[number].append(i)
    return [members for members in bins if members]


def ms_swift(lengths: Sequence[int], capacity: int) -> Packed:
    """ms-swift, that is `binpacking.to_constant_volume`: longest first into the emptiest of the bins that take it, all
    of which are listed for every item."""
    loads: list[int] = []
    bins: Packed = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        taking = [number for number in range(len(loads)) if loads[number] + lengths[i] <= capacity]
        if taking:
            number = min(taking, key=loads.__getitem__)
        else:
            number = len(loads)
            loads.append(0)
            bins.append([])
        loads[number] += lengths[i]
        bins[number].append(i)
    return bins


def windowed(rule: object, lengths: Sequence[int], capacity: int, window: int) -> Packed:
    """A rule over each `window` items on their own."""
    assert callable(rule)
    bins: Packed = []
    for start in range(0, len(lengths), window):
        bins += [[start + i for i in members] for members in rule(lengths[start : start + window], capacity)]
    return bins
