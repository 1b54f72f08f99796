"""Placements of whole runs of equal items, and the bins that they amount to."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from mmdata.pack.bins import Bins

Event = tuple[int, int, int, int, int]
"""(run, first, bins, depth, each): `each` items of the run `run` go into each of the bins first <= b < first + bins,
which hold `depth` items so far."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Items sorted by length, longest first and stable, and the runs of equal ones among them.

    Rules that look at lengths alone need as many steps as there are distinct ways to fill a bin, however many items
    there are: a million samples of at most 8,192 tokens have at most 8,192 lengths.
    """

    order: npt.NDArray[np.int64]
    """int64 [N]"""
    lengths: list[int]
    """Descending, of each run."""
    counts: list[int]

    @staticmethod
    def of(lengths: npt.NDArray[np.int64], capacity: int) -> Runs:
        # Keys of 16 bits are sorted by radix, four times as fast as by comparison.
        order = np.argsort((capacity - lengths).astype(np.uint16 if capacity <= 1 << 16 else np.int64), kind="stable")
        values = lengths[order]
        starts = np.flatnonzero(np.diff(values, prepend=-1)) if len(values) else np.zeros(0, np.int64)
        counts = np.diff(starts, append=len(values))
        return Runs(order, values[starts].tolist(), counts.tolist())


def assemble(runs: Runs, events: list[Event], bins: int) -> Bins:
    """The bins that these events fill: each run's items are used up in order, event by event, bin by bin."""
    if not events:
        return Bins(items=np.zeros(0, np.int64), offsets=np.zeros(1, np.int64))
    table = np.fromiter(chain.from_iterable(events), np.int64, 5 * len(events)).reshape(-1, 5)
    table = table[np.argsort(table[:, 0], kind="stable")]
    _, first, many, depth, each = table.T
    sizes = many * each

    # How many items each bin ends up with: differences over ranges of bins, summed up.
    change = np.zeros(bins + 1, np.int64)
    np.add.at(change, first, each)
    np.subtract.at(change, first + many, each)
    offsets = np.zeros(bins + 1, np.int64)
    np.cumsum(np.cumsum(change[:-1]), out=offsets[1:])

    # Item k of an event is item k % each of its bin first + k // each, after the `depth` that are there.
    total = len(runs.order)
    small = np.int32 if max(total, bins) < 1 << 31 else np.int64
    per = np.repeat(each.astype(small), sizes)
    number = np.arange(total, dtype=small) - np.repeat((np.cumsum(sizes) - sizes).astype(small), sizes)
    row = number // per
    place = number - row * per
    place += np.repeat(depth.astype(small), sizes)
    row += np.repeat(first.astype(small), sizes)
    place += offsets.astype(small)[row]
    items = np.empty(total, np.int64)
    items[place] = runs.order
    return Bins(items=items, offsets=offsets)
