"""The column in which a record keeps the boxes of its only picture: [left, top, right, bottom] in pixels, for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmdata.errors import DataError
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

Box = tuple[float, float, float, float]
Size = tuple[int, int]

COLUMN = "boxes"
LABELS = "labels"
CROWDS = "crowds"


def numbers(value: Any) -> list[Box]:
    """The boxes of a column as they stand: a list of four finite numbers each, or such a box alone. Raises DataError
    `bad_box` that tells what is there instead.

    >>> numbers([[1, 2, 3.5, 4]]), numbers([1, 2, 3, 4]), numbers([])
    ([(1.0, 2.0, 3.5, 4.0)], [(1.0, 2.0, 3.0, 4.0)], [])
    """
    if isinstance(value, list) and len(value) == 4 and all(map(_is_number, value)):
        value = [value]
    if not isinstance(value, list):
        raise DataError("bad_box", f"a list of boxes is wanted, not {_short(value)}")
    found = []
    for at, box in enumerate(value):
        if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_number, box)):
            raise DataError("bad_box", f"box {at} is {_short(box)}; four numbers are wanted")
        found.append((float(box[0]), float(box[1]), float(box[2]), float(box[3])))
    return found


def labels(value: Any, count: int) -> list[str]:
    """What lies in each of so many boxes; one text stands for all of them. Raises DataError `bad_box` for another
    number of labels, or other labels than texts."""
    if isinstance(value, str):
        return [value] * count
    if not isinstance(value, list) or len(value) != count:
        what = f"{len(value)} labels" if isinstance(value, list) else _short(value)
        raise DataError("bad_box", f"a label for each of {count} boxes is wanted, not {what}")
    if wrong := next((label for label in value if not isinstance(label, str)), None):
        raise DataError("bad_box", f"a label is a text, not {_short(wrong)}")
    return value


def cut(box: Box, size: Size) -> Box | None:
    """The part of a box that lies in a picture of `size` (height, width); None where that has no area.

    >>> cut((-5, 10, 50, 400), (100, 200)), cut((10, 10, 10, 20), (100, 200)), cut((300, 0, 400, 50), (100, 200))
    ((0.0, 10, 50, 100), None, None)
    """
    height, width = size
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[2], width), min(box[3], height)
    return (left, top, right, bottom) if right > left and bottom > top else None


def placed(sample: Sample, work: Work) -> Sample | Drop:
    """The sample with its boxes on its picture as everyone sees it, upright and of its own size, where its source says
    on what size they were drawn: they are scaled, and turned if that is the size of pixels that EXIF turns. Dropped as
    `boxes_size` where they were drawn on another shape."""
    boxed = sample.boxed
    if boxed is None or len(sample.media) != 1 or COLUMN not in sample.meta:
        return sample
    size = work.size(sample.media[0])
    orientation = work.header(sample.media[0]).orientation if boxed != size else 1
    stored = (size[1], size[0]) if orientation >= 5 else size
    drawn = stored if boxed == stored or fitted(boxed, size) is None else size
    scale = fitted(boxed, drawn)
    if scale is None:
        return unfit(boxed, size)
    if boxed == size:
        return replace(sample, boxed=None)
    made = [scaled(box, scale) for box in numbers(sample.meta[COLUMN])]
    if drawn != size:
        made = [turned(box, orientation, size) for box in made]
    columns = {COLUMN: [list(box) for box in made], "height": size[0], "width": size[1]}
    return replace(sample, meta={**sample.meta, **columns}, boxed=None)


def fitted(drawn: tuple[float, float], size: Size) -> tuple[float, float] | None:
    """What brings boxes from a picture of the size `drawn` on to one of `size` (down, across); None where their shapes
    differ by more than sides that were rounded to whole pixels.

    >>> fitted((61, 83), (122, 166)), fitted((61, 83), (83, 61))
    ((2.0, 2.0), None)
    """
    down, across = size[0] / drawn[0], size[1] / drawn[1]
    if abs(drawn[0] * across - size[0]) > max(1.0, across) and abs(drawn[1] * down - size[1]) > max(1.0, down):
        return None
    return down, across


def unfit(drawn: Sequence[float], size: Size) -> Drop:
    """What becomes of a record whose boxes were drawn on another shape."""
    detail = f"annotated on {drawn[1]:g}x{drawn[0]:g}, the picture is {size[1]}x{size[0]}"
    return Drop(reason="boxes_size", detail=detail)


def scaled(box: Box, by: tuple[float, float]) -> Box:
    """A box times (down, across)."""
    return box[0] * by[1], box[1] * by[0], box[2] * by[1], box[3] * by[0]


def turned(box: Box, orientation: int, size: Size) -> Box:
    """A box of stored pixels in the upright picture of `size` (height, width), for the EXIF orientations 5 to 8.

    >>> turned((70, 10, 80, 30), 6, (83, 61)), turned((70, 10, 80, 30), 8, (83, 61))
    ((31, 70, 51, 80), (10, 3, 30, 13))
    """
    height, width = size
    top, left, bottom, right = box  # across becomes down
    if orientation in (6, 7):
        left, right = width - right, width - left
    if orientation in (7, 8):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def moved(sample: Sample, column: str | None, scale: tuple[float, float], shift: tuple[float, float]) -> Sample:
    """The sample with the boxes of its only picture where a step that resizes has brought them: coordinates times
    `scale`, plus `shift` (each down, across). Nothing is cut or left out, so that labels stay beside their boxes. A
    column that holds no boxes stays as it is; so does that of several pictures, for nobody says which is meant."""
    if column is None or column not in sample.meta or sum(media.kind != "audio" for media in sample.media) != 1:
        return sample
    try:
        found = numbers(sample.meta[column])
    except DataError:
        return sample  # Whatever reads boxes says so.
    (down, across), (below, beside) = scale, shift
    made = [
        [left * across + beside, top * down + below, right * across + beside, bottom * down + below]
        for left, top, right, bottom in found
    ]
    return replace(sample, meta={**sample.meta, column: made})


def within(boxes: Sequence[Box], names: Sequence[str], size: Size) -> list[tuple[str, Box]]:
    """Named boxes, cut to the picture; those without area or name are left out."""
    pairs = ((name.strip(), cut(box, size)) for name, box in zip(names, boxes, strict=True))
    return [(name, box) for name, box in pairs if name and box is not None]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
