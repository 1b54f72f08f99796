"""Motion and change between frames, over a stream of them: a histogram term, a flow term, and key frames by both.

Frames are RGB uint8 [H, W, 3] in presentation order; the frame before is all that is held. The terms have no
primary source and are defined here, each in its own unit: the histogram term lies in 0..1 whatever the size
of the picture, the flow term is in pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from mmdata.errors import SpecError

BINS = 8
"""Levels per colour of the histogram: 8 x 8 x 8 bins."""
LONGEST = 160
"""Pixels of the longest edge of the reduced pictures that are compared."""
BLOCK = 8
"""Pixels of the side of a block whose motion is searched."""
REACH = 6
"""How far, in reduced pixels, a block may have moved along each axis."""
COST = BLOCK * BLOCK // 4
"""What each pixel of displacement must gain in absolute difference (a quarter of a level per pixel of a block), so that
flat blocks and noise stand still."""


@dataclass(frozen=True, slots=True)
class Change:
    """What differs between a frame and the one before."""

    histogram: float
    """Symmetric chi-square distance of the colour histograms of the reduced pictures, 0..1."""
    flow: float
    """Mean length of the blocks' motion, pixels of the picture."""


def changes(frames: Iterable[np.ndarray]) -> Iterator[Change]:
    """The change of each frame from the one before; nothing for the first frame.

    >>> black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    >>> list(changes([black, black, white]))
    [Change(histogram=0.0, flow=0.0), Change(histogram=0.0, flow=0.0), Change(histogram=1.0, flow=0.0)]
    """
    counts: np.ndarray | None = None
    grey: np.ndarray | None = None
    for frame in frames:
        small, side = averaged(frame)
        new_counts, new_grey = histogram(small), luma(small)
        if counts is None or grey is None:
            yield Change(0.0, 0.0)
        else:
            yield Change(chi_square(counts, new_counts), side * block_motion(grey, new_grey))
        counts, grey = new_counts, new_grey


def key_frames(
    frames: Iterable[np.ndarray], *, threshold: float = 0.3, histogram_weight: float = 0.5, flow_scale: float = 16.0
) -> tuple[int, ...]:
    """The frames at which the content changes: the first, and each whose
    `histogram_weight * histogram + (1 - histogram_weight) * min(1, flow / flow_scale)` exceeds `threshold`.

    `flow_scale` is the motion in pixels that counts as a change as complete as a histogram without any common colour;
    the score lies in 0..1.

    >>> black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    >>> key_frames([black, black, white, white])
    (0, 2)
    """
    if not 0 <= histogram_weight <= 1 or flow_scale <= 0:
        raise SpecError(
            f"key frames: histogram_weight {histogram_weight} is not in 0..1 or flow_scale {flow_scale} <= 0"
        )
    found = []
    for at, change in enumerate(changes(frames)):
        score = histogram_weight * change.histogram + (1 - histogram_weight) * min(1.0, change.flow / flow_scale)
        if at == 0 or score > threshold:
            found.append(at)
    return tuple(found)


def histogram(frame: np.ndarray) -> np.ndarray:
    """Shares of 8 x 8 x 8 colours, float64 [512], sum 1."""
    levels = (frame >> 5).astype(np.int64)
    index = (levels[..., 0] * BINS + levels[..., 1]) * BINS + levels[..., 2]
    return np.bincount(index.reshape(-1), minlength=BINS**3) / index.size


def chi_square(first: np.ndarray, second: np.ndarray) -> float:
    """0.5 * sum((p - q)^2 / (p + q)) of two histograms of sum 1: 0 for the same, 1 for nothing in common.

    >>> chi_square(np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5]))
    0.5
    """
    both = first + second
    some = both > 0
    return float(0.5 * (((first - second)[some] ** 2) / both[some]).sum())


def averaged(frame: np.ndarray) -> tuple[np.ndarray, int]:
    """The mean colours of squares, so that the longest edge is at most 160 pixels: uint8 [h, w, 3], and the side of the
    squares. Rows and columns that fill no square are left out."""
    height, width = frame.shape[:2]
    side = min(max(1, -(-max(height, width) // LONGEST)), height, width)
    if side == 1:
        return frame, 1
    rows, columns = height // side, width // side
    down = np.zeros((rows, width, 3), np.int32)
    for at in range(side):  # whole rows at a time, which numpy adds many times faster than it sums along an axis
        down += frame[at : rows * side : side]
    both = np.zeros((rows, columns, 3), np.int32)
    for at in range(side):
        both += down[:, at : columns * side : side]
    return (both // side**2).astype(np.uint8), side


def luma(frame: np.ndarray) -> np.ndarray:
    """(77 R + 150 G + 29 B) / 256: int16 [H, W]."""
    red, green, blue = np.moveaxis(frame, -1, 0).astype(np.int32)
    grey: np.ndarray = ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.int16)
    return grey


def block_motion(before: np.ndarray, after: np.ndarray) -> float:
    """Mean length, in pixels, of the displacements of 8 x 8 blocks of `after` from `before` (both int16 [h, w]).

    For each block every displacement of up to 6 pixels along both axes is tried; that of the least sum of absolute
    differences plus 16 per pixel of |dy| + |dx| wins, of equals the nearest to none. Beyond the border lies the
    border's pixel. A picture without one block does not move.
    """
    rows, columns = after.shape[0] // BLOCK, after.shape[1] // BLOCK
    if not rows or not columns:
        return 0.0
    target = after[: rows * BLOCK, : columns * BLOCK]
    around = np.pad(before, REACH, mode="edge")
    least = np.full((rows, columns), np.iinfo(np.int32).max, np.int32)
    length = np.zeros((rows, columns), np.float64)
    for dy, dx in _displacements():
        moved = around[REACH + dy : REACH + dy + rows * BLOCK, REACH + dx : REACH + dx + columns * BLOCK]
        apart = np.abs(target - moved).reshape(rows, BLOCK, columns, BLOCK)
        cost = apart.sum(axis=1, dtype=np.int16).sum(axis=2, dtype=np.int32) + COST * (abs(dy) + abs(dx))
        better = cost < least
        least[better] = cost[better]
        length[better] = (dy * dy + dx * dx) ** 0.5
    return float(length.mean())


def _displacements() -> list[tuple[int, int]]:
    """All (dy, dx) within reach, the nearest to none first."""
    side = range(-REACH, REACH + 1)
    return sorted(((dy, dx) for dy in side for dx in side), key=lambda move: (move[0] ** 2 + move[1] ** 2, move))
