"""A keyed permutation of 0..n-1 and its inverse: no memory, any entry in constant time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mmdata import rng

ROUNDS = 8

Keys = npt.NDArray[np.uint64]
"""uint64 [ROUNDS]"""
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_Cipher = Callable[[Keys, np.uint64, Keys], Keys]


def round_keys(*what: int | str) -> Keys:
    """The keys of a permutation that is for `what`, as `mmdata.rng.generator` takes it."""
    return rng.generator(*what).integers(0, 2**64, ROUNDS, dtype=np.uint64)


def permute(places: npt.NDArray[np.int64], n: int, keys: Keys) -> npt.NDArray[np.int64]:
    """What stands at each of the places: int64 in 0..n-1 for int64 in 0..n-1.

    A Feistel network over the smallest even number of bits that holds n, applied again while the result lies outside
    0..n-1 (cycle walking, Black and Rogaway 2002: at most four times n values, so fewer than four rounds on average).

    >>> keys = round_keys("order", 0, 0)
    >>> sorted(permute(np.arange(8), 8, keys).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7]
    >>> place_of(permute(np.arange(8), 8, keys), 8, keys).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    return _walk(places, n, keys, _feistel)


def place_of(values: npt.NDArray[np.int64], n: int, keys: Keys) -> npt.NDArray[np.int64]:
    """The inverse of `permute`: the place at which each of the values stands, int64 in 0..n-1."""
    return _walk(values, n, keys, _unfeistel)


def _walk(values: npt.NDArray[np.int64], n: int, keys: Keys, cipher: _Cipher) -> npt.NDArray[np.int64]:
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    found = cipher(values.astype(np.uint64), half, keys)
    limit = np.uint64(n)
    outside = np.flatnonzero(found >= limit)
    walking = found[outside]
    while outside.size:
        walking = cipher(walking, half, keys)
        inside = walking < limit
        found[outside[inside]] = walking[inside]
        outside, walking = outside[~inside], walking[~inside]
    return found.astype(np.int64)


def _feistel(values: Keys, half: np.uint64, keys: Keys) -> Keys:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        mixed = _mix(right ^ key)
        mixed &= mask
        mixed ^= left
        left, right = right, mixed
    return np.asarray((left << half) | right)


def _unfeistel(values: Keys, half: np.uint64, keys: Keys) -> Keys:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys[::-1]:
        left, right = right ^ (_mix(left ^ key) & mask), left
    return np.asarray((left << half) | right)


def _mix(x: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), modulo 2^64."""
    x = x ^ (x >> _30)
    x *= _FIRST
    x ^= x >> _27
    x *= _SECOND
    x ^= x >> _31
    return x
