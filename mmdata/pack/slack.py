"""A bounded search for bins with the least room left over, where best-fit decreasing leaves some."""

from __future__ import annotations

from bisect import bisect_right

from mmdata.pack.decreasing import Remaining
from mmdata.pack.events import Event, Runs

STEPS_PER_BIN = 100
STEPS = 150_000
"""Per search: some tenths of a second of Python."""


def minimum_slack(runs: Runs, capacity: int, *, enough: int = 0, steps: int = STEPS) -> tuple[list[Event], int]:
    """Fill one bin after the other, each with the longest item that is left and those that leave the least room beside
    it; as many such bins as the items last for. Events and the number of bins.

    A depth-first search, longest items first, over at most STEPS_PER_BIN placements a bin and `steps` in all; with
    none left the first filling found is taken, which is that of first-fit decreasing. A filling that leaves no more
    room than `enough` is not improved. (After the minimum bin slack heuristic: Gupta and Ho 1999; Fleszar and Hindi
    2002.)
    """
    events: list[Event] = []
    left = Remaining(runs)
    bins = 0
    while end := left.at_most(len(left.lengths)):
        chosen, used = _fullest(left, end - 1, capacity, enough, min(STEPS_PER_BIN, steps))
        steps = max(0, steps - used)
        pattern: dict[int, int] = {}
        for run in chosen:
            pattern[run] = pattern.get(run, 0) + 1
        bins = left.take(list(pattern.items()), events, bins)
    return events, bins


def _fullest(left: Remaining, seed: int, capacity: int, enough: int, steps: int) -> tuple[list[int], int]:
    """Runs to take an item each from, `seed` first, that together leave the least room found; and the steps spent."""
    lengths, counts, at_most = left.lengths, left.counts, left.at_most
    counts[seed] -= 1
    path: list[int] = []
    best: list[int] = []
    room = capacity - lengths[seed]
    best_room = capacity
    end, used = seed + 1, 0
    while True:
        while True:  # the longest item that fits, and the next, until none does
            end = bisect_right(lengths, room, 0, end)
            while end and not counts[end - 1]:
                # Either the run is used up, or all of it is in the path and `at_most` does not know.
                below = at_most(end)
                end = below - 1 if below == end else below
            if not end:
                break
            path.append(end - 1)
            counts[end - 1] -= 1
            room -= lengths[end - 1]
            used += 1
        if room < best_room:
            best, best_room = path.copy(), room
        if best_room <= enough or used >= steps or not path:
            break
        end = path.pop()  # instead of the last item, a shorter one
        counts[end] += 1
        room += lengths[end]
    for run in path:
        counts[run] += 1
    counts[seed] += 1
    return [seed, *best], used
