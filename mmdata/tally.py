"""Counting in bounded memory: histograms with fixed bins and fine quantiles, and the heaviest of many names."""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdata.ledger import STATES
from mmdata.rng import generator

TOP = 20
"""Names that `Heaviest` lists."""
FAILED = ("failed_transient", "failed_permanent")
REJECTED = tuple(state for state in STATES if state != "ok")
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_FINE = math.log(1.01)
AT_ONCE = 64
"""Arrays that wait to be counted together."""


def octaves(first: float, last: float, parts: int, *, centred: bool = False) -> list[float]:
    """Geometric bin edges, `parts` per doubling; `centred` puts powers of two in the middle of a bin.

    >>> octaves(1, 4, 2)
    [1.0, 1.4142, 2.0, 2.8284, 4.0]
    """
    low, high = round(math.log2(first) * parts), round(math.log2(last) * parts)
    shift = 0.5 if centred else 0.0
    return [round(2.0 ** ((step - shift) / parts), 4) for step in range(low, high + 1 + centred)]


def lengths(last: int) -> list[float]:
    """Edges for counts of things: two bins per doubling, on whole numbers.

    >>> lengths(16)
    [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0]
    """
    return [
        1.0,
        2.0,
        *(float(edge) for k in range(1, int(math.log2(last))) for edge in (3 * 2 ** (k - 1), 2 ** (k + 1))),
    ]


def sample_keys(samples: int, n: int, seed: int, what: str = "text") -> list[int]:
    """Positions of `n` random samples of 0 to samples-1 (all, if there are no more), ascending, keyed by `seed`.

    >>> sample_keys(1000, 4, 0) == sample_keys(1000, 4, 0) != sample_keys(1000, 4, 1)
    True
    """
    drawn = generator(seed, "report", what).choice(samples, size=min(n, samples), replace=False, shuffle=False)
    return sorted(int(position) for position in drawn)


class Tally:
    """A histogram over fixed `edges` (bins closed on the left), and quantiles good to one percent.

    >>> tally = Tally("px", [1.0, 10.0, 100.0])
    >>> tally.add(np.array([0.0, 5.0, 50.0, 60.0, 100.0]))
    >>> value = tally.to_json()
    >>> value["counts"], value["below"], value["above"], value["quantiles"]["p50"]
    ([1, 2], 1, 1, 50)
    """

    def __init__(self, unit: str, edges: list[float], *, whole: bool = True) -> None:
        self.unit, self.edges, self.whole = unit, edges, whole
        self._counts = np.zeros(len(edges) + 1, dtype=np.int64)  # the first is below all edges, the last above
        self._fine: Counter[int] = Counter()
        self._fine_sums: defaultdict[int, float] = defaultdict(float)
        self._low, self._high = math.inf, -math.inf
        self._waiting: list[npt.NDArray[np.float64]] = []

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count values >= 0; those that are not finite are left out."""
        if len(values):
            self._waiting.append(values.astype(np.float64))
            if len(self._waiting) >= AT_ONCE or sum(map(len, self._waiting)) >= AT_ONCE * 100:
                self._count()

    def _count(self) -> None:
        """Count what is waiting: many small arrays at once, for each takes as long as a large one."""
        values = np.concatenate([np.zeros(0), *self._waiting])
        self._waiting = []
        values = values[np.isfinite(values)]
        if not len(values):
            return
        at = np.searchsorted(self.edges, values, side="right")
        self._counts += np.bincount(at, minlength=len(self._counts))
        bins, members = np.unique(
            np.floor(np.log(np.maximum(values, 1e-9)) / _FINE).astype(np.int64), return_inverse=True
        )
        counts, sums = np.bincount(members), np.bincount(members, weights=values)
        for step, count, total in zip(bins.tolist(), counts.tolist(), sums.tolist(), strict=True):
            self._fine[step] += count
            self._fine_sums[step] += total
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))

    def quantile(self, share: float) -> float:
        """The nearest-rank quantile: the mean of the values in the one-percent bin that holds it.

        So it is exact where that bin holds one value only, as it often does: sides of 512, captions of 8 words.
        """
        self._count()
        rank = max(1, math.ceil(share * self._fine.total()))
        for step in sorted(self._fine):
            rank -= self._fine[step]
            if rank <= 0:
                break
        return min(max(self._fine_sums[step] / self._fine[step], self._low), self._high)

    def to_json(self) -> dict[str, Any]:
        self._count()
        count = self._fine.total()
        value: dict[str, Any] = {
            "unit": self.unit,
            "n": count,
            "edges": self.edges,
            "counts": self._counts[1:-1].tolist(),
            "below": int(self._counts[0]),
            "above": int(self._counts[-1]),
        }
        if count:
            value |= {
                "min": self._round(self._low),
                "mean": significant(sum(self._fine_sums.values()) / count),
                "max": self._round(self._high),
            }
            value["quantiles"] = {f"p{share * 100:g}": self._round(self.quantile(share)) for share in QUANTILES}
        return value

    def _round(self, value: float) -> float:
        return round(value) if self.whole else significant(value)


class Heaviest:
    """Counts by name and state in bounded memory: beyond twice `capacity` names the lightest are let go.

    `missed` bounds what a returned name's total may lack; 0 means that every count is exact.
    """

    def __init__(self, capacity: int = 32_768) -> None:
        self.capacity, self.missed, self.distinct_at_least = capacity, 0, 0
        self._counts: dict[str, Counter[str]] = {}

    def add(self, name: str, state: str, count: int) -> None:
        self._counts.setdefault(name, Counter())[state] += count

    def prune(self) -> None:
        """Call between files: keeps the heaviest `capacity` names when there are more than twice as many."""
        self.distinct_at_least = max(self.distinct_at_least, len(self._counts))
        if len(self._counts) > 2 * self.capacity:
            ranked = sorted(self._counts.items(), key=lambda item: (-item[1].total(), item[0]))
            self.missed += ranked[self.capacity][1].total()
            self._counts = dict(ranked[: self.capacity])

    def to_json(self) -> dict[str, Any]:
        def top(states: tuple[str, ...]) -> list[dict[str, Any]]:
            weight = {name: sum(counts[state] for state in states) for name, counts in self._counts.items()}
            names = heapq.nsmallest(TOP, (name for name in weight if weight[name]), key=lambda n: (-weight[n], n))
            return [
                {"name": name, "records": self._counts[name].total(), **{s: self._counts[name][s] for s in STATES}}
                for name in names
            ]

        return {
            "distinct": self.distinct_at_least,
            "missed_at_most": self.missed,
            "most": top(STATES),
            "most_failed": top(FAILED),
            "most_rejected": top(REJECTED),
        }


def significant(value: float) -> float:
    """A float to five significant digits, so that a file of them is stable and short.

    >>> significant(0.123456789), significant(123456.789)
    (0.12346, 123460.0)
    """
    return float(f"{value:.5g}")


def by_count(counts: dict[Any, int]) -> list[tuple[Any, int]]:
    """Names and counts, the most first.

    >>> by_count({"a": 1, "c": 2, "b": 2})
    [('b', 2), ('c', 2), ('a', 1)]
    """
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
