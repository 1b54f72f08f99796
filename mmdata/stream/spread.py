"""Spreading packs: an order in which every prefix has what the whole has, of each thing that packs hold."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WINDOW = 128
"""Packs among which the next one is chosen. With all to choose from, packs near the mean would all come first."""


def spread(shares: npt.NDArray[np.int64], window: int = WINDOW) -> npt.NDArray[np.int64]:
    """The order of P packs, int64 [P], for what each holds of D things, int64 [P, D], each in any unit.

    Greedy herding (Welling 2009): of the next `window` packs in the given order comes the one after which the sums so
    far are nearest to what so many packs hold on average, each thing counted in its own mean deviation. The same
    numbers give the same order everywhere: they are whole numbers whose sums are never rounded.

    >>> spread(np.array([[9, 0], [9, 0], [0, 5], [0, 5]])).tolist()
    [0, 2, 1, 3]
    """
    packs = len(shares)
    values = _scaled(np.asarray(shares, np.int64))
    if not values.shape[1]:
        return np.arange(packs)
    window = min(window, packs)
    held = values[:window].copy()
    squares = (held**2).sum(1)
    numbers = np.arange(window)
    sums = np.zeros(values.shape[1])
    order = np.empty(packs, np.int64)
    for at in range(packs):
        scores = held @ (2 * sums)
        scores += squares
        chosen = int(scores.argmin())
        order[at] = numbers[chosen]
        sums += held[chosen]
        following = at + window
        if following < packs:
            # The window stays in the order of the packs but for the one that takes the place of the chosen.
            held[chosen], numbers[chosen] = values[following], following
            squares[chosen] = (held[chosen] ** 2).sum()
        else:
            squares[chosen] = np.inf
    return order


def _scaled(shares: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Distances from the mean in 4096ths of the mean distance, as whole numbers; without what all hold alike."""
    distances = shares * len(shares) - shares.sum(0)
    deviations = np.abs(distances).sum(0) // max(1, len(shares))
    varies = deviations > 0
    return np.asarray(np.rint(distances[:, varies] / deviations[varies] * 4096))
