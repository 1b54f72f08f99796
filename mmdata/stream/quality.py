"""How well an order is shuffled: three shares of what one order of chance for everything would give, 0 to 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmdata.stream.order import Order

WINDOW = 1000
"""Samples among which a trainer sees about a step's worth."""
BLOCKS = 20
"""Blocks that are looked at where an epoch has more."""

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleQuality:
    """Each is 1 for an order of chance, near 0 for samples as they lie, and comparable between modes.

    `displacement`: how far samples are from where they lie in the dataset. `neighbours`: how seldom one follows another
    of the same shard. `diversity`: the entropy of shards within `window` samples in a row. `score` is the least of
    them.
    """

    displacement: float
    neighbours: float
    diversity: float
    window: int

    @property
    def score(self) -> float:
        return min(self.displacement, self.neighbours, self.diversity)


def shuffle_quality(order: Order, epoch: int = 0, *, window: int = WINDOW) -> ShuffleQuality:
    """Of an epoch, from all its blocks or `BLOCKS` of them spread over it. An order that knows no shards is judged by
    pieces of `window` samples."""
    firsts = order.shard_firsts
    if firsts is None:
        firsts = np.append(np.arange(0, order.n, window), order.n).astype(np.int64)
    count = min(BLOCKS, order.blocks)
    numbers = [i * order.blocks // count for i in range(count)]
    parts = [order.block(epoch, number) for number in numbers]
    # Where blocks begin follows from their sizes only where they are alike; elsewhere it is near enough.
    places = [
        number * order.n // order.blocks + np.arange(len(part)) for number, part in zip(numbers, parts, strict=True)
    ]
    return quality_of(parts, places, firsts, window=window)


def quality_of(
    parts: list[Positions], places: list[Positions], shard_firsts: Positions, *, window: int = WINDOW
) -> ShuffleQuality:
    """Of stretches of an order of n samples: their positions, their places in the order, and where shards begin."""
    n = int(shard_firsts[-1])
    rows = np.diff(shard_firsts)
    shards = [np.searchsorted(shard_firsts, part, side="right") - 1 for part in parts]
    moved = np.concatenate([np.abs(part - place) for part, place in zip(parts, places, strict=True)])
    by_chance = (n * n - 1) / (3 * n) if n > 1 else 0.0
    pairs = np.concatenate([part[1:] == part[:-1] for part in shards])
    same = float((rows * (rows - 1)).sum()) / (n * (n - 1)) if n > 1 else 1.0
    window = min(window, max((len(part) for part in shards), default=0))
    entropies = [
        _entropy(part[start : start + window])
        for part in shards
        for start in range(0, len(part) - window + 1, max(1, window))
    ]
    expected = _expected_entropy(rows, n, window)
    return ShuffleQuality(
        displacement=_share(float(moved.mean()) if len(moved) else 0.0, by_chance),
        neighbours=_share(1 - float(pairs.mean()) if len(pairs) else 0.0, 1 - same),
        diversity=_share(float(np.mean(entropies)) if entropies else 0.0, expected),
        window=window,
    )


def _share(found: float, by_chance: float) -> float:
    """1 also where chance itself could give nothing: one sample, one shard."""
    return min(1.0, found / by_chance) if by_chance > 0 else 1.0


def _entropy(shards: Positions) -> float:
    """Of how a window is divided among shards, in nats."""
    counts = np.unique(shards, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _expected_entropy(rows: Positions, n: int, window: int) -> float:
    """Of a window of an order of chance: the sum over shards of the mean of -(k/W) log(k/W), where k, the samples from
    a shard, is hypergeometric."""
    if not window:
        return 0.0
    whole, total = _log_choose(n, window), 0.0
    sizes, counts = np.unique(rows[rows > 0], return_counts=True)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        mean = window * size / n
        most = min(size, window, math.ceil(mean + 12 * math.sqrt(mean) + 12))  # beyond lies nothing that counts
        for k in range(1, most + 1):
            log = _log_choose(size, k) + _log_choose(n - size, window - k) - whole
            total -= count * math.exp(log) * k / window * math.log(k / window)
    return total


def _log_choose(n: int, k: int) -> float:
    if not 0 <= k <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
