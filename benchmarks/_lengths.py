"""Length mixes of multimodal data: text and images of fixed or varied numbers of tokens, the same on every machine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MIXES = ("llava576", "anyres729")
CAPACITIES = (4096, 8192, 32768)
Array = npt.NDArray[np.int64]


def parts(mix: str, count: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Tokens of text, number of images or tiles, and tokens of each of those: int64 [count] each.

    `llava576`: log-normal text (median 192) and 0 to 4 images of 576, mostly one.
    `anyres729`: the same text, narrower, and no tile (a third) or 2 to 10 tiles of 729, mostly 3 to 6.
    """
    draw = np.random.default_rng([seed, MIXES.index(mix)])
    if mix == "llava576":
        text = draw.lognormal(np.log(192), 0.75, count)
        media = draw.choice(5, count, p=[0.2, 0.6, 0.1, 0.06, 0.04])
    else:
        text = draw.lognormal(np.log(192), 0.62, count)
        media = np.where(draw.random(count) < 0.32, 0, 2 + draw.binomial(8, 0.305, count))
    size = 576 if mix == "llava576" else 729
    return np.maximum(1, text.astype(np.int64)), media.astype(np.int64), np.full(count, size)


def lengths(mix: str, count: int, capacity: int, seed: int = 0) -> Array:
    """Tokens of `count` samples, int64 [count], cut at the capacity."""
    text, media, size = parts(mix, count, seed)
    return np.minimum(text + media * size, capacity)
