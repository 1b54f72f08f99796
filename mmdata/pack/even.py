"""Exchanging items between packed bins until a second load, such as vision, is spread over them evenly."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import numpy as np
import numpy.typing as npt

from mmdata.pack.bins import Bins

PARTNERS = 6
"""Bins at the other end that one is offered to."""
OFFERS = 3
"""Items that are tried per partner."""
SMALL = 48
"""Items of a bin out of which an exchange is put together."""
EXCHANGES = 3000
"""At most, so that a block is done in some tenths of a second."""


def even_out(
    bins: Bins, lengths: npt.ArrayLike, weights: npt.ArrayLike, capacity: int, *, tolerance: float = 0.15
) -> Bins:
    """The same number of bins, none over `capacity`, with `weights` (integers [N], 0 or more) spread more evenly.

    Packing by length alone leaves bins of nothing but text beside bins of nothing but pictures, and no dealing of whole
    bins to ranks makes up for that. Here the bin that is poorest in weight gets an item that has some from a rich one,
    for several of its items without any that are as long together, to within the room that both bins have; then the
    richest bins give to poor ones. It ends when every bin is within `tolerance` of the mean or no exchange is found.
    A pure function of the input, in whole numbers.

    >>> bins = Bins.of([[0, 1], [2, 3, 4]])      # two pictures of 5 tokens; texts of 5, 3 and 2
    >>> even_out(bins, [5, 5, 5, 3, 2], [4, 4, 0, 0, 0], 10).tolist()
    [[1, 2], [3, 4, 0]]
    """
    work = _Work(bins, lengths, weights, capacity)
    work.run(poor=True, tolerance=tolerance)
    work.run(poor=False, tolerance=tolerance)
    return Bins.of(work.bins) if work.exchanged else bins


class _Work:
    """Bins in the making."""

    def __init__(self, bins: Bins, lengths: npt.ArrayLike, weights: npt.ArrayLike, capacity: int) -> None:
        sizes, values = np.asarray(lengths, np.int64), np.asarray(weights, np.int64)
        self.lengths: list[int] = sizes.tolist()
        self.weights: list[int] = values.tolist()
        self.bins = bins.tolist()
        self.rooms: list[int] = (capacity - bins.loads(sizes)).tolist()
        self.held: list[int] = bins.loads(values).tolist()
        self.exchanged = 0

    def run(self, *, poor: bool, tolerance: float) -> None:
        """Offer bins from one end (the poorest, or the richest) to some of the other."""
        if not self.bins:
            return
        mean = sum(self.held) / len(self.bins)
        sign = 1 if poor else -1
        near = [(sign * held, b) for b, held in enumerate(self.held)]
        far = [(-sign * held, b) for b, held in enumerate(self.held)]
        heapify(near)
        heapify(far)
        while near and self.exchanged < EXCHANGES:
            held, one = heappop(near)
            if held != sign * self.held[one]:
                continue  # has changed since
            if abs(self.held[one] - mean) <= tolerance * mean or sign * (self.held[one] - mean) > 0:
                return
            partner = self._partner(one, far, poor)
            if partner is not None:
                for changed in (one, partner):
                    heappush(near, (sign * self.held[changed], changed))
                    heappush(far, (-sign * self.held[changed], changed))

    def _partner(self, one: int, far: list[tuple[int, int]], poor: bool) -> int | None:
        """Exchange with the first of the bins at the other end that can; which one it was."""
        seen: list[tuple[int, int]] = []
        found = None
        while far and len(seen) < PARTNERS and found is None:
            held, other = heappop(far)
            if abs(held) != self.held[other]:
                continue
            seen.append((held, other))
            if self._exchange(*((one, other) if poor else (other, one))):
                found = other
        for held, other in seen:
            if other != found:
                heappush(far, (held, other))
        return found

    def _exchange(self, poor: int, rich: int) -> bool:
        gap = self.held[rich] - self.held[poor]
        offers = [i for i in self.bins[rich] if 0 < self.weights[i] < gap]
        offers.sort(key=lambda i: abs(2 * self.weights[i] - gap))
        small = [i for i in self.bins[poor] if not self.weights[i]][:SMALL]
        tried: set[int] = set()
        for item in offers:
            length = self.lengths[item]
            if length in tried:
                continue
            if len(tried) == OFFERS:
                break
            tried.add(length)
            lengths = [self.lengths[i] for i in small]
            taken = subset(lengths, length - self.rooms[poor], length, length + self.rooms[rich])
            if taken is not None:
                self._swap(poor, rich, item, [small[i] for i in taken])
                return True
        return False

    def _swap(self, poor: int, rich: int, item: int, texts: list[int]) -> None:
        given = set(texts)
        self.bins[rich] = [i for i in self.bins[rich] if i != item] + texts
        self.bins[poor] = [i for i in self.bins[poor] if i not in given] + [item]
        moved = self.lengths[item] - sum(self.lengths[i] for i in texts)
        self.rooms[rich] += moved
        self.rooms[poor] -= moved
        self.held[rich] -= self.weights[item]
        self.held[poor] += self.weights[item]
        self.exchanged += 1


def subset(lengths: Sequence[int], low: int, wanted: int, high: int) -> list[int] | None:
    """Numbers of some `lengths` that add up to `low`..`high`, to `wanted` if possible, else to the nearest below, else
    above; None where none do.

    >>> subset([5, 3, 2], 4, 6, 7)
    [0]
    >>> subset([5, 3, 2], 9, 9, 9) is None
    True
    """
    mask = (1 << (high + 1)) - 1
    reached = [1]  # bit s: some of the lengths so far add up to s
    for length in lengths:
        reached.append((reached[-1] | reached[-1] << length) & mask)
    below = reached[-1] & ((1 << (wanted + 1)) - 1)
    total = below.bit_length() - 1
    if total < max(low, 0):
        above = reached[-1] >> (wanted + 1)
        if not above:
            return None
        total = wanted + (above & -above).bit_length()
    taken = []
    for at in range(len(lengths) - 1, -1, -1):
        if not reached[at] >> total & 1:
            taken.append(at)
            total -= lengths[at]
    return taken[::-1]
