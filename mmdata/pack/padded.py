"""Batches for trainers that pad: samples of like length together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmdata.pack.bins import Bins, checked, round_up


def length_batches(
    lengths: npt.ArrayLike,
    *,
    rows: int | None = None,
    max_tokens: int | None = None,
    multiple: int = 1,
    window: int | None = None,
) -> Bins:
    """Batches (bins) of at most `rows` samples and `max_tokens` tokens, padding included: every row is as long as the
    longest of its batch, rounded up to `multiple`.

    Samples are sorted by length, longest first and stable, within each `window` of the order they come in (all of them
    if it is None), and cut into batches from the longest on; so what a window mixes is what a shuffled order mixes.
    Raises ValueError for a length that does not fit into `max_tokens` on its own.

    >>> length_batches([3, 9, 4, 8], max_tokens=18).tolist()      # 2 rows of 9, 2 of 4
    [[1, 3], [2, 0]]
    >>> length_batches([3, 9, 4, 8, 1], rows=2).tolist()
    [[1, 3], [2, 0], [4]]
    """
    if rows is None and max_tokens is None:
        raise ValueError("batches need a limit: rows or max_tokens")
    if (rows is not None and rows < 1) or (window is not None and window < 1):
        raise ValueError(f"rows and window are 1 or more, not {rows} and {window}")
    padded = round_up(np.asarray(lengths, np.int64), multiple)
    values = checked(padded, np.iinfo(np.int64).max if max_tokens is None else max_tokens)
    plain = np.asarray(lengths, np.int64)
    items, sizes = [np.zeros(0, np.int64)], [0]
    step = window or max(1, len(values))
    for start in range(0, len(values), step):
        order = start + np.argsort(-plain[start : start + step], kind="stable")
        items.append(order)
        at = 0
        while at < len(order):
            fitting = len(order) if max_tokens is None else max_tokens // int(values[order[at]])
            size = min(len(order) - at, fitting, rows or fitting)
            sizes.append(size)
            at += size
    return Bins(items=np.concatenate(items), offsets=np.cumsum(sizes, dtype=np.int64))
