"""Which rule packs a set of lengths: the named ones, in one go or window by window, and the best of several."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from mmdata.pack import arrival, decreasing
from mmdata.pack.bins import Bins, checked, round_up
from mmdata.pack.bounds import quick_bound
from mmdata.pack.events import Event, Runs, assemble
from mmdata.pack.slack import minimum_slack

Strategy = Literal[
    "next_fit", "first_fit", "best_fit", "first_fit_decreasing", "best_fit_decreasing", "best", "thorough"
]
_ARRIVAL: dict[str, Callable[[npt.NDArray[np.int64], int], Bins]] = {
    "next_fit": arrival.next_fit,
    "first_fit": arrival.first_fit,
    "best_fit": arrival.best_fit,
}
_Rule = Callable[[Runs, int], tuple[list[Event], int]]
_DECREASING: dict[str, _Rule] = {
    "first_fit_decreasing": decreasing.first_fit,
    "best_fit_decreasing": decreasing.best_fit,
}

SMALL = 50_000
"""So many items, several blocks of the planner, are worth a search; of more, speed is."""


def pack(
    lengths: npt.ArrayLike, capacity: int, strategy: Strategy = "best", *, window: int | None = None, multiple: int = 1
) -> Bins:
    """Bins of indices into `lengths` (integers [N], 1..capacity), none of them over `capacity`.

    `next_fit`, `first_fit` and `best_fit` take items as they come; `first_fit_decreasing` and `best_fit_decreasing`
    longest first; `thorough` is `best_fit_decreasing` or, where that has more bins than it might, whichever of it,
    `first_fit_decreasing` and a bounded search (`mmdata.pack.slack`) has the fewest; `best` is that for up to SMALL
    items, and `best_fit_decreasing` for more. With `window` every `window` items are packed on their own. Each item
    counts as padded to a `multiple`.

    The result is a pure function of the input: equal lengths keep their order, bins come in the order in which they
    were opened. Raises ValueError for a length outside 1..capacity: what does not fit is the caller's to drop.

    >>> pack([7, 5, 3, 3, 2], 10, "next_fit").tolist()
    [[0], [1, 2], [3, 4]]
    >>> pack([5, 3, 5, 8, 2], 10, window=3).tolist()
    [[0, 2], [1], [3, 4]]
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"no packing strategy {strategy!r}; {', '.join(get_args(Strategy))}")
    if window is not None and window < 1:
        raise ValueError(f"a window holds 1 item or more, not {window}")
    values = checked(lengths if multiple == 1 else round_up(lengths, multiple), capacity)
    if window is None or window >= len(values):
        return _packed(values, capacity, strategy)
    parts = []
    for start in range(0, len(values), window):
        part = _packed(values[start : start + window], capacity, strategy)
        parts.append(Bins(items=part.items + start, offsets=part.offsets))
    return Bins.joined(parts)


def pack_best_fit(lengths: npt.ArrayLike, capacity: int) -> list[list[int]]:
    """Lists of indices into `lengths`: never more than best-fit decreasing would fill, and fewer where a bounded
    search finds them (`pack` with strategy `best`).

    >>> pack_best_fit([7, 5, 3, 3, 2], capacity=10)      # 7+3, 5+3+2
    [[0, 2], [1, 3, 4]]
    """
    return pack(lengths, capacity).tolist()


def _packed(values: npt.NDArray[np.int64], capacity: int, strategy: Strategy) -> Bins:
    if strategy in _ARRIVAL:
        return _ARRIVAL[strategy](values, capacity)
    runs = Runs.of(values, capacity)
    if strategy in _DECREASING:
        return assemble(runs, *_DECREASING[strategy](runs, capacity))
    events, bins = decreasing.best_fit(runs, capacity)
    bound = quick_bound(np.array(runs.lengths[::-1]), np.array(runs.counts[::-1]), capacity)
    if bins > bound and (strategy == "thorough" or len(values) <= SMALL):
        # Half of the room that each bin has at the bound is not worth a search.
        enough = (bound * capacity - int(values.sum())) // (2 * bound)
        for rule in (decreasing.first_fit, partial(minimum_slack, enough=enough)):
            other, fewer = rule(runs, capacity)
            if fewer < bins:
                events, bins = other, fewer
    return assemble(runs, events, bins)
