"""Documents cut into pieces that fit: one long row cut at the capacity, or each document on its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmdata.pack.bins import Bins


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pieces:
    """Piece p is `start[p] <= token < stop[p]` of document `item[p]`; each int64 [P]. The pieces of a document follow
    each other and cover it without a gap."""

    item: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.item)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return self.stop - self.start

    def tolist(self) -> list[tuple[int, int, int]]:
        """(item, start, stop) of each piece."""
        return list(zip(self.item.tolist(), self.start.tolist(), self.stop.tolist(), strict=True))


def concat_then_split(lengths: npt.ArrayLike, capacity: int) -> tuple[Pieces, Bins]:
    r"""Text documents laid end to end and cut every `capacity` tokens: pieces, and bins of pieces. Every bin but the
    last is full. For text alone: a sample with media must not be cut (`mmdata.pack.overlong`).

        documents   AAAAAAA BB CCCCCCCCC          (7, 2 and 9 tokens)
        rows of 8   AAAAAAAB | BCCCCCCC | CC

    >>> pieces, bins = concat_then_split([7, 2, 9], capacity=8)
    >>> [[pieces.tolist()[p] for p in members] for members in bins.tolist()]
    [[(0, 0, 7), (1, 0, 1)], [(1, 1, 2), (2, 0, 7)], [(2, 7, 9)]]
    """
    values = _documents(lengths, capacity)
    ends = np.cumsum(values)
    total = int(ends[-1]) if len(ends) else 0
    edges = np.unique(np.concatenate([[0], ends, np.arange(capacity, total, capacity)]))
    first = edges[:-1]
    item = np.searchsorted(ends, first, side="right")
    before = (ends - values)[item]
    pieces = Pieces(item=item, start=first - before, stop=edges[1:] - before)
    rows = np.arange(-(-total // capacity))
    offsets = np.append(np.searchsorted(first, rows * capacity), len(first))
    return pieces, Bins(items=np.arange(len(first)), offsets=offsets)


def cut(lengths: npt.ArrayLike, capacity: int) -> Pieces:
    """Every document cut every `capacity` tokens of its own, so that none of up to `capacity` is cut at all; the pieces
    are then packed by any rule ("fewer truncations", Ding et al. 2024).

    >>> cut([7, 20], capacity=8).tolist()
    [(0, 0, 7), (1, 0, 8), (1, 8, 16), (1, 16, 20)]
    """
    values = _documents(lengths, capacity)
    parts = -(-values // capacity)
    item = np.repeat(np.arange(len(values)), parts)
    start = (np.arange(len(item)) - np.repeat(np.cumsum(parts) - parts, parts)) * capacity
    return Pieces(item=item, start=start, stop=np.minimum(start + capacity, values[item]))


def _documents(lengths: npt.ArrayLike, capacity: int) -> npt.NDArray[np.int64]:
    values = np.asarray(lengths, np.int64)
    if capacity < 1 or (len(values) and values.min() < 0):
        raise ValueError(
            f"documents of 0 tokens or more are cut into 1 or more, not {values.min(initial=0)}, {capacity}"
        )
    return values
