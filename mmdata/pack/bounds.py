"""How few bins any packing could have: bounds that need no packing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmdata.pack.bins import checked

PARAMETERS = 4096
"""Of dual feasible functions of the second kind, at most as many are tried."""
CELLS = 1 << 20
"""Values that are held at once."""


def lower_bound(lengths: npt.ArrayLike, capacity: int) -> int:
    """No packing of `lengths` into bins of `capacity` has fewer bins than this: the best of
    ceil(sum / capacity), Martello and Toth's L2 (1990), and dual feasible functions: those of Fekete and Schepers
    (2001) and of Carlier, Clautiaux and Moukrim (2007).

    A dual feasible function maps lengths so that whatever fits into a bin still does; the mapped sum then counts bins.
    Raises ValueError for a length outside 1..capacity.

    >>> lower_bound([6, 6, 6], capacity=10)      # 18 of 20 tokens, but no two share a bin
    3
    >>> lower_bound([4, 4, 4, 4, 4], 10), lower_bound([5, 5, 5], 10)
    (3, 2)
    """
    values, counts = np.unique(checked(lengths, capacity), return_counts=True)
    if not len(values):
        return 0
    return max(
        quick_bound(values, counts, capacity),
        _fekete_schepers(values, counts, capacity),
        _carlier(values, counts, capacity),
    )


def quick_bound(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], capacity: int) -> int:
    """The better of ceil(sum / capacity) and L2, for distinct ascending `values` int64 [D] and how often each occurs.

    L2, for every a <= capacity/2: items over capacity - a share with nobody of a or more; those between capacity/2 and
    capacity - a need a bin each; what items of a..capacity/2 exceed their rooms by needs further bins.
    """
    if not len(values):
        return 0
    number = np.concatenate([[0], np.cumsum(counts)])
    total = np.concatenate([[0], np.cumsum(counts * values)])
    half = int(np.searchsorted(values, capacity // 2, side="right"))
    least = np.concatenate([[0], values[:half]])
    big = np.maximum(np.searchsorted(values, capacity - least, side="right"), half)
    small = np.searchsorted(values, least, side="left")
    room = (number[big] - number[half]) * capacity - (total[big] - total[half])
    beyond = np.maximum(0, -(-(total[half] - total[small] - room) // capacity))
    return max(-(-int(total[-1]) // capacity), int((number[-1] - number[half] + beyond).max()))


def _fekete_schepers(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], capacity: int) -> int:
    """u_k: x stays where (k + 1) x / C is whole, else it becomes floor((k + 1) x / C) C / k; here times k."""
    k = np.arange(1, 65)[:, None]
    scaled = (k + 1) * values
    mapped = np.where(scaled % capacity == 0, k * values, scaled // capacity * capacity)
    return int((-(-(mapped @ counts) // (capacity * k[:, 0]))).max())


def _carlier(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], capacity: int) -> int:
    """f_l: twice floor(x / l) below C/2; above it, twice what floor(C / l) is left with by the rest C - x."""
    unit = np.arange(1, capacity // 2 + 1)
    if len(unit) > PARAMETERS:  # the larger, the fewer steps, the more is rounded in our favour
        unit = unit[-min(len(unit), capacity // 2 - capacity // 64) :]
        unit = unit[np.unique(np.linspace(0, len(unit) - 1, PARAMETERS).astype(np.int64))]
    over, under = values[2 * values > capacity], values[2 * values < capacity]
    often_over, often_under = counts[2 * values > capacity], counts[2 * values < capacity]
    halves = int(counts[2 * values == capacity].sum())
    best = 0
    rows = max(1, CELLS // len(values))
    for start in range(0, len(unit), rows):
        some = unit[start : start + rows, None]
        top = capacity // some[:, 0]
        mapped = 2 * (top * often_over.sum() - (capacity - over) // some @ often_over)
        mapped += 2 * (under // some @ often_under) + top * halves
        best = max(best, int((-(-mapped // (2 * top))).max()))
    return best
