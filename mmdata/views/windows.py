"""Which patches of a vision tower attend to each other: whole frames, or the windows of Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmdata.errors import SpecError

Grid = tuple[int, int, int]


def frame_cu_seqlens(grids: Sequence[Grid]) -> np.ndarray:
    """Borders of the frames of all media, each of which attends to itself: int32 [frames + 1], in patches.

    >>> frame_cu_seqlens([(1, 4, 6), (2, 2, 2)]).tolist()
    [0, 24, 28, 32]
    """
    sizes = [rows * columns for frames, rows, columns in grids for _ in range(frames)]
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)


def window_index(
    grids: Sequence[Grid], *, window: int = 112, patch: int = 14, merge: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """The order that brings windows of `window` x `window` pixels together, and their borders.

    Answers int64 [tokens], the old place of each merged token, and int32 [windows + 1], in patches; windows at the
    right and bottom edges are what is left of them. (transformers, `vision_utils.get_vision_window_index`, which adds
    an empty window where the side divides and removes it again.)

    >>> order, borders = window_index([(1, 4, 12)])      # 2 x 6 tokens, windows of 4 x 4
    >>> order.tolist(), borders.tolist()
    ([0, 1, 2, 3, 6, 7, 8, 9, 4, 5, 10, 11], [0, 32, 48])
    """
    side = window // merge // patch
    if side < 1:
        raise SpecError(f"window_index: a window of {window} pixels holds no {merge} x {merge} patches of {patch}")
    orders, sizes, first = [], [], 0
    for frames, rows, columns in grids:
        tall, wide = rows // merge, columns // merge
        index = first + np.arange(frames * tall * wide, dtype=np.int64).reshape(frames, tall, wide)
        for frame in index:
            for top in range(0, tall, side):
                for left in range(0, wide, side):
                    cut = frame[top : top + side, left : left + side].reshape(-1)
                    orders.append(cut)
                    sizes.append(len(cut) * merge**2)
        first += frames * tall * wide
    order = np.concatenate(orders) if orders else np.zeros(0, np.int64)
    return order, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
