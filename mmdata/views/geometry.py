"""How points, boxes, masks and coordinates written in a text move when a picture is cropped, resized and mirrored."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from typing_extensions import TypeIs

from mmdata.boxes import FORMATS, BoxFormat, boxes_at, rewrite_boxes
from mmdata.boxes.points import parse_points, rewrite_points
from mmdata.templates.marks import tags
from mmdata.types import Colour, Crop, Flip, Pad, PixelOp, Resize

Point = tuple[float, float]
Box = tuple[float, float, float, float]
Scale = Literal["thousandths", "bins", "unit", "pixels"]
Coordinates = Scale | BoxFormat
"""How texts write coordinates: between tags, 0..1000 of the side, its 1,000 bins 0..999, 0..1, or pixels of the whole
picture; or as a format of `mmdata.boxes` writes boxes."""
_NUMBER = re.compile(r"(?<![\d.])-?\d+(?:\.\d+)?")
_CORNERS = re.compile(r"<(?:box|region)>|<\|box_start\|>")
"""Tags around upper left and lower right corners, of one box or of several; around others are points."""


@dataclass(frozen=True, slots=True)
class Move:
    """Where a point lies after the operations: x * scale_x + shift_x, likewise y; pictures are (height, width)."""

    before: tuple[int, int]
    after: tuple[int, int]
    scale_x: float
    shift_x: float
    scale_y: float
    shift_y: float

    def point(self, x: float, y: float) -> Point:
        """Coordinates in pixels, from the left and the top edge."""
        return x * self.scale_x + self.shift_x, y * self.scale_y + self.shift_y

    def box(self, box: Sequence[float]) -> Box:
        """(left, top, right, bottom), cut to the picture; still in this order after mirroring."""
        (x0, y0), (x1, y1) = self.point(box[0], box[1]), self.point(box[2], box[3])
        height, width = self.after
        return (
            min(max(min(x0, x1), 0.0), width),
            min(max(min(y0, y1), 0.0), height),
            min(max(max(x0, x1), 0.0), width),
            min(max(max(y0, y1), 0.0), height),
        )


def movement(size: tuple[int, int], ops: Sequence[PixelOp]) -> Move:
    """The move that the operations make of a picture of `size` (height, width).

    >>> movement((100, 200), (Crop(10, 20, 50, 100), Flip(), Resize(25, 50))).box((30, 20, 60, 40))
    (30.0, 5.0, 45.0, 15.0)

    Raises ValueError for an operation after which a point of the picture lies in several places.
    """
    height, width = size
    scale_x = scale_y = 1.0
    shift_x = shift_y = 0.0
    for op in ops:
        match op:
            case Crop(top, left, rows, columns):
                shift_x, shift_y, height, width = shift_x - left, shift_y - top, rows, columns
            case Pad(top, left, bottom, right):
                shift_x, shift_y = shift_x + left, shift_y + top
                height, width = height + top + bottom, width + left + right
            case Resize(rows, columns):
                scale_x, shift_x = scale_x * columns / width, shift_x * columns / width
                scale_y, shift_y = scale_y * rows / height, shift_y * rows / height
                height, width = rows, columns
            case Flip():
                scale_x, shift_x = -scale_x, width - shift_x
            case Colour():
                pass
            case _:
                raise ValueError(f"{op} moves points to several places")
    return Move(size, (height, width), scale_x, shift_x, scale_y, shift_y)


def move_mask(mask: np.ndarray, ops: Sequence[PixelOp]) -> np.ndarray:
    """A mask of labels, [H, W] of any type, moved like the picture. Resizing takes the nearest pixel (the one whose
    centre lies nearest), for labels cannot be mixed; padding is 0.

    >>> move_mask(np.array([[1, 2], [3, 4]]), (Flip(), Resize(2, 4))).tolist()
    [[2, 2, 1, 1], [4, 4, 3, 3]]
    """
    for op in ops:
        match op:
            case Crop(top, left, rows, columns):
                mask = mask[top : top + rows, left : left + columns]
            case Pad(top, left, bottom, right):
                mask = np.pad(mask, ((top, bottom), (left, right)))
            case Resize(rows, columns):
                height, width = mask.shape
                down = (np.arange(rows) * 2 + 1) * height // (2 * rows)
                across = (np.arange(columns) * 2 + 1) * width // (2 * columns)
                mask = mask[down][:, across]
            case Flip():
                mask = mask[:, ::-1]
            case Colour():
                pass
            case _:
                raise ValueError(f"{op} has no meaning for a mask")
    return np.ascontiguousarray(mask)


def move_polygons(polygons: Sequence[Sequence[Sequence[float]] | None], move: Move) -> list[list[list[float]] | None]:
    """The outlines [x, y, x, y, ...] of each box (None where it has none), moved like the picture. What leads out of
    it is drawn outside of it.

    >>> move_polygons([[[0, 0, 10, 0, 10, 20]]], movement((20, 40), (Flip(), Resize(10, 20))))
    [[[20.0, 0.0, 15.0, 0.0, 15.0, 10.0]]]
    """
    return [
        None
        if outlines is None
        else [
            [value for x, y in zip(outline[::2], outline[1::2], strict=True) for value in move.point(x, y)]
            for outline in outlines
        ]
        for outlines in polygons
    ]


def _is_format(coordinates: Coordinates) -> TypeIs[BoxFormat]:
    return coordinates in FORMATS


def boxes_in(text: str, size: tuple[int, int], coordinates: Coordinates) -> list[Box]:
    """The smallest box around the points of each tagged stretch of a text (`<box>(1,2),(3,4)</box>`), in pixels; of a
    format's name, the boxes that `rewrite` would move, and points between tags."""
    if _is_format(coordinates):
        spots = [(x, y, x, y) for x, y in parse_points(text, size)]
        return [box for _, _, box in boxes_at(text, size, coordinates)] + spots
    found = []
    for _, points, _ in _points(text, size, coordinates):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        found.append((min(xs), min(ys), max(xs), max(ys)))
    return found


def rewrite(text: str, move: Move, coordinates: Coordinates) -> str:
    """The text with the coordinates in its tagged stretches moved. Numbers keep their form: whole numbers stay whole,
    others keep their digits; the two corners of each box stay upper left and lower right.

    >>> move = movement((100, 100), (Crop(0, 0, 100, 50), Flip()))
    >>> rewrite("a <ref>cat</ref><box>(100,200),(300,400)</box>", move, "thousandths")
    'a <ref>cat</ref><box>(400,200),(800,400)</box>'
    """
    if _is_format(coordinates):
        return rewrite_points(
            rewrite_boxes(text, move.before, coordinates, move.box, move.after), move.before, move.point, move.after
        )
    pieces, reached = [], 0
    for numbers, points, corners in _points(text, move.before, coordinates):
        moved = [move.point(x, y) for x, y in points]
        height, width = move.after
        moved = [(min(max(x, 0.0), width), min(max(y, 0.0), height)) for x, y in moved]
        if corners:
            moved = [
                corner
                for (a, b), (c, d) in zip(moved[::2], moved[1::2], strict=True)
                for corner in ((min(a, c), min(b, d)), (max(a, c), max(b, d)))
            ]
        values = [value for point in moved for value in point]
        sides = [width, height] * len(moved)
        for number, value, side in zip(numbers, values, sides, strict=True):
            pieces += [text[reached : number.start()], _written(value, side, number.group(), coordinates)]
            reached = number.end()
    return "".join([*pieces, text[reached:]])


def _points(
    text: str, size: tuple[int, int], coordinates: Scale
) -> list[tuple[list[re.Match[str]], list[Point], bool]]:
    """The numbers of each tagged stretch, the points that they are, in pixels, and whether these are corners of boxes.
    A stretch of an odd number of numbers holds no points."""
    height, width = size
    found = []
    for start, stop, kind in tags(text):
        numbers = list(_NUMBER.finditer(text, start, stop))
        if kind != "box" or not numbers or len(numbers) % 2:
            continue
        values = [float(number.group()) for number in numbers]
        points = [
            (_read(x, width, coordinates), _read(y, height, coordinates))
            for x, y in zip(values[::2], values[1::2], strict=True)
        ]
        found.append((numbers, points, len(points) % 2 == 0 and _CORNERS.match(text, start) is not None))
    return found


def _read(value: float, side: int, coordinates: Scale) -> float:
    match coordinates:
        case "thousandths":
            return value / 1000 * side
        case "bins":
            return (value + 0.5) / 1000 * side  # the middle of the bin, so that standing still changes nothing
        case "unit":
            return value * side
        case "pixels":
            return value


def _written(value: float, side: int, before: str, coordinates: Scale) -> str:
    match coordinates:
        case "thousandths":
            value = value / side * 1000
        case "bins":
            return str(min(math.floor(value / side * 1000), 999))
        case "unit":
            value = value / side
        case "pixels":
            pass
    _, point, digits = before.partition(".")
    return f"{value:.{len(digits)}f}" if point else str(math.floor(value + 0.5))
