"""From pixels to the numbers that a format writes, and back: bins, shares, cells, squares.

Each takes the picture's size (height, width) and that which the model sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Box = tuple[float, float, float, float]
Size = tuple[int, int]
Numbers = tuple[float, ...]

CELLS = 32
"""Cells of Kosmos-2's grid along each side."""
NOISE = 1e-9
"""Added before flooring, so that what was read from a bin falls into it again."""


def shares(box: Box, size: Size) -> Box:
    height, width = size
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def scaled(numbers: Sequence[float], size: Size) -> Box:
    height, width = size
    return numbers[0] * width, numbers[1] * height, numbers[2] * width, numbers[3] * height


def bins(box: Box, size: Size, seen: Size) -> Numbers:
    height, width = size
    sides = (width, height, width, height)
    return tuple(
        min(max(math.floor(1000 * value / side + NOISE), 0), 999) for value, side in zip(box, sides, strict=True)
    )


def restored(most: float, middle: float = 0.0) -> Callable[[Numbers, Size, Size], Box]:
    """Shares of the side, in steps of 1 / `most`; a number stands for its step's `middle`."""
    return lambda numbers, size, seen: scaled([(number + middle) / most for number in numbers], size)


def thousandths(box: Box, size: Size, seen: Size) -> Numbers:
    return tuple(min(max(round(1000 * share), 0), 1000) for share in shares(box, size))


def pixels(box: Box, size: Size, seen: Size) -> Numbers:
    height, width = seen
    limits = (width, height, width, height)
    found = scaled(shares(box, size), seen)
    return tuple(min(max(round(value), 0), limit) for value, limit in zip(found, limits, strict=True))


def from_pixels(numbers: Numbers, size: Size, seen: Size) -> Box:
    return scaled(shares((numbers[0], numbers[1], numbers[2], numbers[3]), seen), size)


def locations(box: Box, size: Size, seen: Size) -> Numbers:
    left, top, right, bottom = (min(max(round(1023 * share), 0), 1023) for share in shares(box, size))
    return top, left, bottom, right


def from_locations(numbers: Numbers, size: Size, seen: Size) -> Box:
    top, left, bottom, right = (number / 1023 for number in numbers)
    return scaled((left, top, right, bottom), size)


def cells(box: Box, size: Size, seen: Size) -> Numbers:
    left, top, right, bottom = shares(box, size)

    def inside(cell: int) -> int:
        return min(max(cell, 0), CELLS - 1)

    first = inside(math.floor(top * CELLS)) * CELLS + inside(math.floor(left * CELLS))
    last = inside(math.ceil(bottom * CELLS - 1)) * CELLS + inside(math.ceil(right * CELLS - 1))
    return first, last


def from_cells(numbers: Numbers, size: Size, seen: Size) -> Box:
    """A box in one row or column of cells is all of them, another reaches from middle to middle."""
    (top, left), (bottom, right) = (divmod(int(number), CELLS) for number in numbers)
    narrow = top == bottom or left == right
    ends = (0.0, 1.0) if narrow else (0.5, 0.5)
    edges = (left + ends[0], top + ends[0], right + ends[1], bottom + ends[1])
    return scaled([edge / CELLS for edge in edges], size)


def square(digits: int) -> tuple[Callable[[Box, Size, Size], Numbers], Callable[[Numbers, Size, Size], Box]]:
    """Shares of the square that a picture is padded to on both sides, to so many digits."""

    def padding(size: Size) -> tuple[int, int, int]:
        height, width = size
        side = max(size)
        return side, (side - width) // 2, (side - height) // 2

    def quantise(box: Box, size: Size, seen: Size) -> Numbers:
        side, left, top = padding(size)
        moved = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
        return tuple(round(value / side, digits) for value in moved)

    def restore(numbers: Numbers, size: Size, seen: Size) -> Box:
        side, left, top = padding(size)
        x0, y0, x1, y1 = (number * side for number in numbers)
        return x0 - left, y0 - top, x1 - left, y1 - top

    return quantise, restore
