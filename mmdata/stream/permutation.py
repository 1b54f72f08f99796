"""A keyed permutation of 0..n-1 and its inverse: no memory, any entry in constant time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdata import rng

ROUNDS = 8
FEW = 8
"""Values up to which Python's integers are quicker: an operation on an array takes as long for one value as for 500."""

Keys = npt.NDArray[np.uint64]
"""uint64 [ROUNDS]"""
Rounds = Sequence[Callable[[Any], Any]]
"""What each round makes of one half of the bits."""
_Cipher = Callable[[Any, int, Rounds], Any]
_64 = (1 << 64) - 1


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
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    found, walking, outside = np.empty(len(values), np.int64), values, np.arange(len(values))
    rounds = _rounds(keys, half, len(values))
    while len(walking) > FEW:
        walking = cipher(walking, half, rounds)
        inside = walking < n
        found[outside[inside]] = walking[inside]
        walking, outside = walking[~inside], outside[~inside]
    single: Rounds = [partial(_mixed, key=key, half=half) for key in keys.tolist()]
    for at, value in zip(outside.tolist(), walking.tolist(), strict=True):
        value = cipher(value, half, single)
        while value >= n:
            value = cipher(value, half, single)
        found[at] = value
    return found


def _rounds(keys: Keys, half: int, count: int) -> Rounds:
    """The rounds for arrays. Where there are no more different halves than values, each round is a table of them."""
    if 1 << half <= count:
        tables = _mixed(np.arange(1 << half, dtype=np.uint64), key=keys[:, None], half=half).astype(np.int64)
        return [table.take for table in tables]
    return [partial(_mixed_each, key=key, half=half) for key in keys]


def _feistel(values: Any, half: int, rounds: Rounds) -> Any:
    left, right = values >> half, values & ((1 << half) - 1)
    for each in rounds:
        left, right = right, left ^ each(right)
    return (left << half) | right


def _unfeistel(values: Any, half: int, rounds: Rounds) -> Any:
    left, right = values >> half, values & ((1 << half) - 1)
    for each in reversed(rounds):
        left, right = right ^ each(left), left
    return (left << half) | right


def _mixed_each(values: npt.NDArray[np.int64], key: np.uint64, half: int) -> npt.NDArray[np.int64]:
    return _mixed(values.view(np.uint64), key, half).view(np.int64)  # type: ignore[no-any-return]


def _mixed(x: Any, key: Any, half: int) -> Any:
    """The low `half` bits of the finaliser of SplitMix64 (Steele, Lea and Flood 2014), modulo 2^64, of x ^ key: of a
    Python integer, or of uint64."""
    x = x ^ key
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _64
    return (x ^ (x >> 31)) & ((1 << half) - 1)
