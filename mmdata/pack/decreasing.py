"""First-fit and best-fit decreasing over runs of equal lengths: the bins of the textbook rules, without its loop over
items."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

from mmdata.pack.events import Event, Runs


def best_fit(runs: Runs, capacity: int) -> tuple[list[Event], int]:
    """Best-fit decreasing: each item, longest first, goes into the fullest bin that still takes it, the oldest of
    several alike (Johnson 1973: at most 11/9 of the optimum plus one). Events and the number of bins.

    A bin that takes an item of a run has less room then, so it is the best fit for the next of the run until it takes
    no more: a run fills bin after bin.
    """
    events: list[Event] = []
    rooms: list[int] = []  # the amounts of room that open bins have left, ascending
    by_room: dict[int, list[tuple[int, int, int]]] = {}  # room -> spans of alike bins: (first, bins, depth), ascending
    shortest = runs.lengths[-1] if runs.lengths else 0
    bins = 0

    def leave(room: int, span: tuple[int, int, int]) -> None:
        if room < shortest:
            return
        spans = by_room.get(room)
        if spans is None:
            by_room[room] = [span]
            insort(rooms, room)
        else:
            insort(spans, span)

    for run, (length, count) in enumerate(zip(runs.lengths, runs.counts, strict=True)):
        while count:
            at = bisect_left(rooms, length)
            if at == len(rooms):
                room, each = capacity, capacity // length
                first, depth = bins, 0
                many = -(-count // each)
                bins += many
            else:
                room = rooms[at]
                each = room // length
                spans = by_room[room]
                first, many, depth = spans.pop(0)
                if not spans:
                    del by_room[room], rooms[at]
            if each * many <= count:
                events.append((run, first, many, depth, each))
                leave(room - each * length, (first, many, depth + each))
                count -= each * many
                continue
            full, rest = divmod(count, each)
            count = 0
            if full:
                events.append((run, first, full, depth, each))
                leave(room - each * length, (first, full, depth + each))
            if rest:
                events.append((run, first + full, 1, depth, rest))
                leave(room - rest * length, (first + full, 1, depth + rest))
            used = full + (rest > 0)
            if used < many:
                leave(room, (first + used, many - used, depth))
    return events, bins


class Remaining:
    """The runs that still have items, shortest first: run i of `lengths` has `counts[i]` left. Runs only run out, so
    the nearest one below is found by path compression."""

    def __init__(self, runs: Runs) -> None:
        self.lengths = runs.lengths[::-1]
        self.counts = runs.counts[::-1]
        self._below = list(range(len(self.lengths) + 1))

    def at_most(self, end: int) -> int:
        """1 + the last run before `end` that has items left, or 0."""
        below = self._below
        root = end
        while below[root] != root:
            root = below[root]
        while below[end] != root:
            below[end], end = root, below[end]
        return root

    def take(self, pattern: list[tuple[int, int]], events: list[Event], bins: int) -> int:
        """Fill bins from number `bins` on with `each` items of `run` for (run, each) of `pattern`, as many bins as the
        items last for; the number of bins then."""
        many = min(self.counts[run] // each for run, each in pattern)
        depth = 0
        for run, each in pattern:
            events.append((len(self.lengths) - 1 - run, bins, many, depth, each))
            depth += each
            self.counts[run] -= many * each
            if not self.counts[run]:
                self._below[run + 1] = run
        return bins + many


def first_fit(runs: Runs, capacity: int) -> tuple[list[Event], int]:
    """First-fit decreasing: each item, longest first, goes into the oldest bin that takes it. Events and bins.

    The same as filling one bin after the other, each with the longest items that it still takes (the "greedy knapsack"
    of Megatron and Energon), which needs no search among bins.
    """
    events: list[Event] = []
    left = Remaining(runs)
    lengths, counts = left.lengths, left.counts
    bins = 0
    while left.at_most(len(lengths)):
        pattern: list[tuple[int, int]] = []
        room, end = capacity, len(lengths)
        while end := bisect_right(lengths, room, 0, end):
            if not counts[end - 1] and not (end := left.at_most(end)):
                break
            end -= 1
            each = min(counts[end], room // lengths[end])
            pattern.append((end, each))
            room -= each * lengths[end]
        bins = left.take(pattern, events, bins)
    return events, bins
