"""The column in which a record keeps the boxes of its only picture: [left, top, right, bottom] in pixels, for each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmdata.errors import DataError
from mmdata.types import Sample

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
