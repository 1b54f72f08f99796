"""Ranges of a file that lie near each other are read together: one request costs more than the bytes between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Bytes `start` to `end` of a file."""

    start: int
    end: int


def coalesce(ranges: Sequence[Range], *, gap: int, limit: int) -> list[tuple[Range, list[int]]]:
    """The reads that cover `ranges`, in order of offset, each with the numbers of the ranges that lie in it.

    Ranges with at most `gap` bytes between them share a read, and so do those that overlap, while the read stays
    within `limit` bytes; a longer range has a read of its own. Every range lies whole in exactly one read.

    >>> coalesce([Range(0, 10), Range(100, 110), Range(12, 20), Range(15, 18)], gap=5, limit=64)
    [(Range(start=0, end=20), [0, 2, 3]), (Range(start=100, end=110), [1])]
    """
    reads: list[tuple[Range, list[int]]] = []
    for number in sorted(range(len(ranges)), key=lambda number: ranges[number]):
        wanted = ranges[number]
        if reads:
            last, inside = reads[-1]
            joined = Range(last.start, max(last.end, wanted.end))
            if wanted.start <= last.end + gap and (joined == last or joined.end - joined.start <= limit):
                reads[-1] = (joined, [*inside, number])
                continue
        reads.append((wanted, [number]))
    return reads
