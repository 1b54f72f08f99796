"""Points as models write them between tags: where to click, what is pointed at."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from mmdata.boxes._numbers import Box, Size

Point = tuple[float, float]
"""x and y in pixels, from the left and the top edge."""
PointTag = Literal["click", "point"]
_TAGGED = re.compile(r"<(click|point)>(.*?)</\1>|<\|point_start\|>(.*?)<\|point_end\|>", re.DOTALL)
_PAIR = re.compile(r"\(?\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*\)?")


def format_points(points: Sequence[Point], size: Size, tag: PointTag = "click") -> str:
    """Points of a picture of `size` (height, width), each between tags, in thousandths of the sides: round(1000 * v),
    0 to 1000.

    >>> format_points([(20, 50)], (100, 200)), format_points([(0, 100)], (100, 200), "point")
    ('<click>(100,500)</click>', '<point>(0,1000)</point>')
    """
    height, width = size
    return "".join(f"<{tag}>({_share(x, width)},{_share(y, height)})</{tag}>" for x, y in points)


def parse_points(text: str, size: Size) -> list[Point]:
    """The points of a text, in pixels of a picture of `size`: what stands between `<click>`, `<point>` or Qwen's
    `<|point_start|>` and its end, as pairs of thousandths; all else is passed over.

    >>> parse_points("<click>(100,500)</click> <point>oh</point>", (100, 200))
    [(20.0, 50.0)]
    """
    height, width = size
    return [
        (float(x) / 1000 * width, float(y) / 1000 * height)
        for found in _TAGGED.finditer(text)
        for x, y in _PAIR.findall(found[2] or found[3] or "")
    ]


def rewrite_points(text: str, size: Size, move: Callable[[float, float], Point], after: Size) -> str:
    """The text with every tagged point moved: `move` takes x and y from pixels of a picture of `size` to pixels of one
    of `after`. What is moved out of the picture comes to lie on its edge.

    >>> rewrite_points("<click>(100,500)</click>", (10, 10), lambda x, y: (10 - x, y), (10, 10))
    '<click>(900,500)</click>'
    """
    height, width = size

    def again(pair: re.Match[str]) -> str:
        x, y = move(float(pair[1]) / 1000 * width, float(pair[2]) / 1000 * height)
        made = f"({_share(x, after[1])},{_share(y, after[0])})"
        same = (round(float(pair[1])), round(float(pair[2]))) == (_share(x, after[1]), _share(y, after[0]))
        return pair[0] if same else made

    return _TAGGED.sub(lambda found: _PAIR.sub(again, found[0]), text)


def centre(box: Box) -> Point:
    """The middle of a box.

    >>> centre((0, 0, 10, 4))
    (5.0, 2.0)
    """
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _share(value: float, side: int) -> int:
    return min(max(round(1000 * value / side), 0), 1000)
