"""M-RoPE: position ids of time, height and width for one segment of text and media, as Qwen-VL numbers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmdata.errors import SpecError

Rule = Literal["max", "transformers"]


@dataclass(frozen=True, slots=True)
class Vision:
    """Where an image or video lies in a segment: `starts` are the offsets of its first placeholders, `grid` is
    (time, rows, columns) in patches before merging.

    A medium whose placeholders are one run has one start; one that is cut into runs, with markers or timestamps between
    them (Qwen3-VL: one run per temporal patch), has as many starts, and each run is numbered as a medium of its own.
    Patches of time i lie at int(i * `seconds` * `rate`): seconds between them (`second_per_grid_ts`) and positions per
    second (`tokens_per_second`). Images, and all videos but those of Qwen2.5-VL and Omni, leave both at 1.
    """

    starts: tuple[int, ...]
    grid: tuple[int, int, int]
    seconds: float = 1.0
    rate: float = 1.0


def mrope_positions(length: int, media: Sequence[Vision], *, merge: int = 2, variant: Rule = "max") -> np.ndarray:
    """Rows of time, height and width, int64 [3, length], from 0.

    Text counts up in all three rows. A medium's tokens (its patches merged `merge` x `merge`) count from the number
    that is next: by frame in the first row, by row of the picture in the second, by column in the third. What follows
    goes on

    - at one more than the largest number so far (`max`), as the checkpoints were trained
      (QwenLM/Qwen3-VL `qwenvl/data/rope2d.py`), or
    - at the medium's start plus its longer side (`transformers`, 5.23): the same for pictures; after a video longer in
      time than it is wide, text then shares its numbers with the end of the video.

    The time is rounded in float32, after each product, as there.

    >>> mrope_positions(9, [Vision((1,), (2, 4, 4), seconds=2.0)])[:, 1:].tolist()    # 1 text, 2 x 2 x 2 tokens
    [[1, 1, 1, 1, 3, 3, 3, 3], [1, 1, 2, 2, 1, 1, 2, 2], [1, 2, 1, 2, 1, 2, 1, 2]]
    """
    if merge < 1 or variant not in ("max", "transformers"):
        raise SpecError(f"mrope_positions: merge {merge}, variant {variant!r}")
    positions = np.empty((3, length), np.int64)
    at = following = 0
    for start, frames, rows, columns, step in sorted(_runs(media, merge), key=lambda run: run[0]):
        stop = start + frames * rows * columns
        if start < at or stop > length:
            raise SpecError(f"mrope_positions: a medium at {start}..{stop} in a segment of {length} begins before {at}")
        positions[:, at:start] = np.arange(following, following + start - at)
        following += start - at
        block = positions[:, start:stop].reshape(3, frames, rows, columns)  # a copy: the slice is not contiguous
        times = (np.arange(frames, dtype=np.float32) * np.float32(step[0]) * np.float32(step[1])).astype(np.int64)
        block[0] = times[:, None, None]
        block[1] = np.arange(rows)[:, None]
        block[2] = np.arange(columns)
        positions[:, start:stop] = block.reshape(3, -1) + following
        longest = max(rows, columns)
        following += max(longest, int(times[-1]) + 1) if variant == "max" else longest
        at = stop
    positions[:, at:] = np.arange(following, following + length - at)
    return positions


def _runs(media: Sequence[Vision], merge: int) -> list[tuple[int, int, int, int, tuple[float, float]]]:
    """(start, frames, rows, columns, step) of each run of placeholders, in tokens."""
    runs = []
    for medium in media:
        frames, rows, columns = medium.grid
        if not medium.starts or min(medium.grid) < 1 or frames % len(medium.starts) or rows % merge or columns % merge:
            raise SpecError(f"mrope_positions: {medium} is no whole number of runs of {merge} x {merge} patches")
        each = frames // len(medium.starts)
        step = (medium.seconds, medium.rate)
        runs += [(start, each, rows // merge, columns // merge, step) for start in medium.starts]
    return runs
