"""Packing where rows have several capacities: tokens, patches, frames, media."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmdata.pack.best import pack
from mmdata.pack.bins import Bins

Array = npt.NDArray[np.int64]


def pack_vectors(sizes: npt.ArrayLike, capacities: npt.ArrayLike) -> Bins:
    """Bins of indices into `sizes` (integers [N, d], 0 or more, the first 1 or more), whose sums exceed none of
    `capacities` (integers [d]).

    If packing by the first size alone (`mmdata.pack.pack`) breaks no other limit, it is that. Otherwise the better of
    two orders of best-fit decreasing: by an item's largest share of a capacity, and by the sum of its shares; an item
    goes into the bin whose room is left the smallest, as a sum of shares weighted by how scarce each capacity is
    (Panigrahy et al. 2011). A pure function of the input; ties keep their order, the oldest bin first. Raises
    ValueError for an item that fits into no bin.

    >>> pack_vectors([[6, 2], [4, 1], [3, 0], [3, 1]], [10, 2]).tolist()      # 10 tokens and 2 images a row
    [[0], [1, 3, 2]]
    """
    values, limits = _checked(sizes, capacities)
    if not len(values):
        return Bins(items=np.zeros(0, np.int64), offsets=np.zeros(1, np.int64))
    scalar = pack(values[:, 0], int(limits[0]))
    if (scalar.loads(values) <= limits).all():
        return scalar
    shares = values / np.maximum(limits, 1)
    scarce = shares.sum(0) / shares.sum()
    bound = vector_bound(values, limits)
    found: Bins | None = None
    for key in (shares.max(1), shares.sum(1)):
        if found is None or len(found) > bound:
            other = _best_fit(values, limits, scarce, np.argsort(-key, kind="stable"))
            found = other if found is None or len(other) < len(found) else found
    assert found is not None
    return found


def vector_bound(sizes: npt.ArrayLike, capacities: npt.ArrayLike) -> int:
    """No packing has fewer bins: the most that any one capacity needs, ceil(sum / capacity)."""
    values, limits = _checked(sizes, capacities)
    return int((-(-values.sum(0) // np.maximum(limits, 1))).max(initial=0))


def _best_fit(values: Array, limits: Array, weights: npt.NDArray[np.float64], order: Array) -> Bins:
    bin_of = np.empty(len(values), np.int64)
    # What is still to come decides which bins can take anything more.
    least = np.minimum.accumulate(values[order][::-1], axis=0)[::-1]
    rooms = np.empty((64, values.shape[1]), np.int64)
    numbers = np.empty(64, np.int64)
    used = opened = 0
    worth = weights / np.maximum(limits, 1)
    for place, i in enumerate(order.tolist()):
        size = values[i]
        fitting = np.flatnonzero((rooms[:used] >= size).all(1))
        if len(fitting):
            at = int(fitting[np.argmin(rooms[fitting] @ worth)])
        else:
            if used == len(rooms):
                rooms, numbers, used = _compact(rooms, numbers, used, least[place])
            at = used
            rooms[at], numbers[at] = limits, opened
            used += 1
            opened += 1
        rooms[at] -= size
        bin_of[i] = numbers[at]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(bin_of))]).astype(np.int64)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return Bins(items=np.lexsort((rank, bin_of)), offsets=offsets)


def _compact(rooms: Array, numbers: Array, used: int, least: Array) -> tuple[Array, Array, int]:
    """Bins that cannot take the least of what is to come are let go; the tables have space for more."""
    open_ = np.flatnonzero((rooms[:used] >= least).all(1))
    size = max(len(rooms), 2 * len(open_) + 64)
    kept = np.empty((size, rooms.shape[1]), np.int64)
    kept_numbers = np.empty(size, np.int64)
    kept[: len(open_)], kept_numbers[: len(open_)] = rooms[open_], numbers[open_]
    return kept, kept_numbers, len(open_)


def _checked(sizes: npt.ArrayLike, capacities: npt.ArrayLike) -> tuple[Array, Array]:
    limits = np.asarray(capacities, np.int64)
    values = np.asarray(sizes, np.int64).reshape(-1, len(limits))
    over = np.flatnonzero(((values < 0) | (values > limits)).any(1) | (values[:, 0] < 1))
    if len(over):
        raise ValueError(f"item {over[0]} of sizes {values[over[0]].tolist()} fits into no bin of {limits.tolist()}")
    return values, limits
