"""Sets of word shingles, their MinHash signatures, and an index that finds signatures that agree.

MinHash: Broder, "On the resemblance and containment of documents" (1997). Banding: Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", section 3.4. All is whole-number arithmetic, the same on every machine.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from mmdata.steps import _texts
from mmdata.steps.caption_length import SPACELESS

HASHES = 128
"""Values of a signature; two sets of Jaccard similarity J agree in each with probability J."""
CANDIDATE = 0.995
"""Least probability that a pair of the stated similarity meets in a band."""
BLOCK = 4096  # Shingles hashed at once: bounds the memory of a long text.

Signature = NDArray[np.uint32]


def words(text: str) -> list[str]:
    """Words of a text for comparing it: in one case and Unicode form, without punctuation; each ideograph and kana is
    a word, and so is each letter of Thai and other scripts without spaces.

    >>> words("The CAT, 猫と犬"), words("ที่ดี")
    (['the', 'cat', '猫', 'と', '犬'], ['ที่', 'ดี'])
    """
    plain = SPACELESS.sub(lambda found: f" {found[0]} ", _texts.plain(text))
    return _texts.words(_texts.RUNNING.sub(lambda found: f" {found[0]}" if found[0].isalnum() else found[0], plain))


def shingles(text: str, size: int) -> list[str]:
    """The distinct runs of `size` words, sorted; the whole text where it has fewer.

    >>> shingles("a b a b c", 2), shingles("a", 2), shingles("--", 2)
    (['a b', 'b a', 'b c'], ['a'], [])
    """
    found = words(text)
    runs = {" ".join(found[at : at + size]) for at in range(max(1, len(found) - size + 1))}
    return sorted(runs - {""})


def signature(pieces: list[str]) -> Signature:
    """uint32 [HASHES]: for each of so many hash functions the least value over the pieces (at least one)."""
    hashes = np.array(
        [int.from_bytes(hashlib.blake2b(piece.encode(), digest_size=8).digest(), "little") for piece in pieces],
        np.uint64,
    )
    least = np.full(HASHES, np.iinfo(np.uint64).max, np.uint64)
    for at in range(0, len(hashes), BLOCK):
        mixed = _mix(hashes[at : at + BLOCK, None] ^ _SEEDS)
        np.minimum(least, mixed.min(axis=0), out=least)
    return (least >> np.uint64(32)).astype(np.uint32)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


_SEEDS = _mix(np.arange(1, HASHES + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def rows_per_band(jaccard: float) -> int:
    """Values per band: as many (a power of two) as still let a pair of this similarity meet in one of the bands.

    >>> rows_per_band(0.5), rows_per_band(0.8), rows_per_band(0.9)
    (2, 4, 8)
    """
    fitting = [r for r in (1, 2, 4, 8, 16) if 1 - (1 - jaccard**r) ** (HASHES // r) >= CANDIDATE]
    return max(fitting, default=1)


class MinHashIndex:
    """A growing list of signatures that answers which of them agrees most with another one.

    Two signatures are compared where all values of one of their bands are equal. Memory per signature is about 0.9 KiB
    at a similarity of 0.8: itself, and two integers of 4 bytes for each band.
    """

    def __init__(self, jaccard: float) -> None:
        self._rows = rows_per_band(jaccard)
        # A pair of just this similarity agrees in so many values or more with probability 0.977 (two deviations).
        self._least = jaccard - 2 * (jaccard * (1 - jaccard) / HASHES) ** 0.5
        self._bands = HASHES // self._rows
        self._signatures = np.zeros((1024, HASHES), np.uint32)
        self._next = np.zeros((self._bands, 1024), np.uint32)  # 1 + the signature before in the same bucket
        self._heads = np.zeros((self._bands, 2048), np.uint32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def nearest(self, value: Signature) -> tuple[float, int] | None:
        """(share of values that agree, position) of the signature that agrees most, the earliest of equals; None where
        none is as similar."""
        found: set[int] = set()
        bands = np.arange(self._bands)
        at = self._heads[bands, self._buckets(value)]
        while (some := at > 0).any():
            bands, at = bands[some], at[some]
            found.update(at.tolist())
            at = self._next[bands, at - 1]
        if not found:
            return None
        places = np.array(sorted(found), np.int64) - 1
        shares = (self._signatures[places] == value).mean(axis=1)
        best = int(shares.argmax())
        return (float(shares[best]), int(places[best])) if shares[best] >= self._least else None

    def add(self, value: Signature) -> int:
        """Remember a signature; returns its position."""
        if self._count == len(self._signatures):
            self._grow()
        self._signatures[self._count] = value
        self._link(self._count)
        self._count += 1
        return self._count - 1

    def _link(self, at: int) -> None:
        bands, buckets = np.arange(self._bands), self._buckets(self._signatures[at])
        self._next[:, at] = self._heads[bands, buckets]
        self._heads[bands, buckets] = at + 1

    def _buckets(self, value: Signature) -> NDArray[np.int64]:
        """The bucket of each band."""
        hashed = np.zeros(self._bands, np.uint64)
        for column in value.reshape(self._bands, self._rows).T:
            hashed = _mix(hashed ^ column)
        return (hashed & np.uint64(self._heads.shape[1] - 1)).astype(np.int64)

    def _grow(self) -> None:
        size = 2 * len(self._signatures)
        self._signatures = np.concatenate([self._signatures, np.zeros_like(self._signatures)])
        self._next = np.zeros((self._bands, size), np.uint32)
        self._heads = np.zeros((self._bands, 2 * size), np.uint32)
        for at in range(self._count):
            self._link(at)
