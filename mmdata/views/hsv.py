"""Hue, saturation and value of uint8 pictures, and their reduction, in the integers of OpenCV, without OpenCV."""

from __future__ import annotations

import functools

import numpy as np

SHIFT = 12
"""Bits behind the point of the reciprocals in the tables."""
WEIGHT_BITS = 11
"""Bits behind the point of the weights of the reduction."""


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """255 / i and 180 / (6 * i) in fixed point, int32 [256]; 0 for i = 0."""
    above = np.arange(1, 256, dtype=np.float64)
    saturation, hue = np.zeros(256, np.int32), np.zeros(256, np.int32)
    saturation[1:] = np.rint((255 << SHIFT) / above)
    hue[1:] = np.rint((180 << SHIFT) / (6.0 * above))
    return saturation, hue


def hsv(frame: np.ndarray) -> np.ndarray:
    """RGB uint8 [H, W, 3] to hue (0-179), saturation and value (0-255), uint8 [3, H, W].

    Equal to `cv2.cvtColor(bgr, COLOR_BGR2HSV)` for every colour (opencv, `color_hsv.simd.hpp`).

    >>> hsv(np.array([[[255, 0, 0], [0, 128, 255], [9, 9, 9]]], np.uint8)).reshape(3, 3).T.tolist()
    [[0, 255, 255], [105, 255, 255], [0, 0, 9]]
    """
    by_value, by_spread = _tables()
    red, green, blue = np.moveaxis(frame, -1, 0).astype(np.int32)
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    half = 1 << (SHIFT - 1)
    saturation = (spread * by_value[value] + half) >> SHIFT
    sector = np.where(
        value == red,
        green - blue,
        np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = (sector * by_spread[spread] + half) >> SHIFT
    hue += np.where(hue < 0, 180, 0)
    return np.stack((hue, saturation, value)).astype(np.uint8)


def reduce(frame: np.ndarray, longest: int = 256) -> np.ndarray:
    """uint8 [H, W, 3] with the longest edge brought down to `longest` pixels, as PySceneDetect does before it looks.

    Equal to `cv2.resize(frame, ..., INTER_LINEAR)`: two taps per axis, no antialiasing, 11-bit weights (opencv,
    `resize.cpp`). A smaller frame is returned untouched.

    >>> reduce(np.full((720, 1280, 3), 7, np.uint8)).shape
    (144, 256, 3)
    """
    height, width = frame.shape[:2]
    if max(height, width) < longest:
        return frame
    factor = max(height, width) / longest
    x0, x1, left, right = _taps(width, max(1, round(width / factor)))
    y0, y1, upper, lower = _taps(height, max(1, round(height / factor)))
    used, place = np.unique(np.concatenate((y0, y1)), return_inverse=True)
    rows = frame[used]  # gathered as bytes: the wide integers come only for the pixels that are kept
    across = rows.take(x0, axis=1).astype(np.int32)
    across *= left[:, None]
    other = rows.take(x1, axis=1).astype(np.int32)
    other *= right[:, None]
    across += other
    across >>= 4
    down, below = across[place[: len(y0)]], across[place[len(y0) :]]
    down *= upper[:, None, None]
    down >>= 16
    below *= lower[:, None, None]
    below >>= 16
    down += below
    down += 2
    down >>= 2
    reduced: np.ndarray = down.astype(np.uint8)
    return reduced


@functools.lru_cache(maxsize=16)
def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each of `new` pixels the two old ones it lies between and their weights, int32 with 11 bits."""
    at = ((np.arange(new) + 0.5) * (1.0 / (new / old)) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int64)
    weight = at - first.astype(np.float32)
    weight[(first < 0) | (first >= old - 1)] = 0
    first = first.clip(0, old - 1)
    one = np.float32(1 << WEIGHT_BITS)
    before = np.rint((np.float32(1) - weight) * one).astype(np.int32)
    return first, np.minimum(first + 1, old - 1), before, np.rint(weight * one).astype(np.int32)
