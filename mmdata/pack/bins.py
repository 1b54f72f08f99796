"""Bins: which items share a row, as two arrays; and how full they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mmdata.collector import paused


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bins:
    """A packing: bin b holds the items `items[offsets[b]:offsets[b + 1]]`.

    >>> bins = Bins.of([[0, 2], [1]])
    >>> bins.items.tolist(), bins.offsets.tolist(), bins.bin_of().tolist()
    ([0, 2, 1], [0, 2, 3], [0, 1, 0])
    """

    items: npt.NDArray[np.int64]
    """int64 [N]: indices of items, bin after bin."""
    offsets: npt.NDArray[np.int64]
    """int64 [B + 1], from 0 to N."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @staticmethod
    def of(bins: Sequence[Sequence[int]]) -> Bins:
        """From lists of indices."""
        offsets = np.zeros(len(bins) + 1, np.int64)
        np.cumsum([len(members) for members in bins], out=offsets[1:])
        items = np.fromiter((i for members in bins for i in members), np.int64, int(offsets[-1]))
        return Bins(items=items, offsets=offsets)

    @staticmethod
    def joined(parts: Sequence[Bins]) -> Bins:
        """The bins of all parts after each other; their indices are left as they are."""
        sizes = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.offsets) for part in parts)])
        items = np.concatenate([np.zeros(0, np.int64), *(part.items for part in parts)])
        return Bins(items=items, offsets=np.cumsum(sizes))

    def tolist(self) -> list[list[int]]:
        """Lists of indices, one per bin."""
        items, edges = self.items.tolist(), self.offsets.tolist()
        with paused():
            return [items[start:stop] for start, stop in pairwise(edges)]

    def bin_of(self) -> npt.NDArray[np.int64]:
        """int64 [N]: the bin of each item. Every index 0..N-1 has to be in exactly one bin."""
        result = np.empty(len(self.items), np.int64)
        result[self.items] = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        return result

    def loads(self, sizes: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """int64 [B], or [B, d] for sizes of d dimensions: what the items of each bin sum up to."""
        values = np.asarray(sizes, np.int64)
        if not len(self):
            return np.zeros((0, *values.shape[1:]), np.int64)
        return np.add.reduceat(values[self.items], self.offsets[:-1], axis=0)


def checked(lengths: npt.ArrayLike, capacity: int) -> npt.NDArray[np.int64]:
    """Lengths as int64 [N]. Raises ValueError unless every one lies in 1..capacity: what does not fit is the caller's
    to drop (`mmdata.pack.overlong`)."""
    array = np.asarray(lengths)
    if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
        raise ValueError(f"lengths are one row of integers, not {array.dtype} {list(array.shape)}")
    if len(array) and not (array.min() >= 1 and array.max() <= capacity):
        raise ValueError(f"lengths run from {array.min()} to {array.max()}; 1 to {capacity} can be packed")
    return array.astype(np.int64, copy=False)


def round_up(lengths: npt.ArrayLike, multiple: int) -> npt.NDArray[np.int64]:
    """Lengths int64 [N], each padded to the next multiple.

    >>> round_up([1, 8, 9], 8).tolist()
    [8, 8, 16]
    """
    if multiple < 1:
        raise ValueError(f"lengths are padded to a multiple of 1 or more, not {multiple}")
    return -(-np.asarray(lengths, np.int64) // multiple) * multiple


def packing_efficiency(bins: Bins | Sequence[Sequence[int]], lengths: npt.ArrayLike, capacity: int) -> float:
    """Share of all rows that is filled, 0 to 1: sum of packed lengths / (bins * capacity). No bins waste nothing: 1.

    >>> packing_efficiency([[0, 2], [1, 3]], [7, 5, 3, 3], capacity=10)
    0.9
    """
    packed = bins if isinstance(bins, Bins) else Bins.of(bins)
    if not len(packed):
        return 1.0
    return int(np.asarray(lengths, np.int64)[packed.items].sum()) / (len(packed) * capacity)


def padded_efficiency(bins: Bins | Sequence[Sequence[int]], lengths: npt.ArrayLike, multiple: int = 1) -> float:
    """Share of padded batches that is filled, 0 to 1, where every item of a bin is a row as long as the longest of its
    bin, rounded up to `multiple`.

    >>> padded_efficiency([[0, 1], [2]], [6, 4, 2])      # 10 of 12, 2 of 2
    0.8571428571428571
    """
    packed = bins if isinstance(bins, Bins) else Bins.of(bins)
    if not len(packed.items):
        return 1.0
    sizes = np.diff(packed.offsets)
    values = np.asarray(lengths, np.int64)[packed.items]
    longest = round_up(np.maximum.reduceat(values, packed.offsets[:-1][sizes > 0]), multiple)
    return int(values.sum()) / int((longest * sizes[sizes > 0]).sum())
