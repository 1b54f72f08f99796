"""The order of an epoch: a keyed permutation of 0..n-1 that takes no memory, any entry in constant time."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mmdata import rng

Shuffle = Literal["none", "global"]
ROUNDS = 8


def order(positions: np.ndarray, n: int, *, shuffle: Shuffle, seed: int, epoch: int) -> np.ndarray:
    """Which sample stands at each place of an epoch: int64 in 0..n-1 for places int64 in 0..n-1.

    `global` is a Feistel network over the smallest even number of bits that holds n, applied again while the
    result lies outside 0..n-1 (cycle walking, Black and Rogaway 2002: at most four times n values, so fewer
    than four rounds on average). The same (n, seed, epoch) gives the same order everywhere.

    >>> order(np.arange(8), 8, shuffle="none", seed=0, epoch=0).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    >>> sorted(order(np.arange(8), 8, shuffle="global", seed=0, epoch=0).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    if shuffle == "none":
        return positions.astype(np.int64)
    keys = rng.generator("order", seed, epoch).integers(0, 2**64, ROUNDS, dtype=np.uint64)
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    values = _feistel(positions.astype(np.uint64), half, keys)
    while (outside := np.flatnonzero(values >= np.uint64(n))).size:
        values[outside] = _feistel(values[outside], half, keys)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return np.asarray((left << half) | right)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
