"""Augmentation, planned on integers: crop, scale, mirror and colour of pictures, and what moves with them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from mmdata.boxes import FORMATS, moves_with_size
from mmdata.rng import generator
from mmdata.spec import Model
from mmdata.types import Augmented, Colour, Crop, Flip, Media, PixelOp, Resize, Sample, Text
from mmdata.views.geometry import Box, Coordinates, boxes_in, move_polygons, movement, rewrite

TRIES = 10
_SIDES = re.compile(
    r"\b(?:(?:left|right)(?:y|s|most|wards?|-?hand(?:ed)?|-?sided?)?|(?:(?:anti|counter)-?)?clockwise)\b"
    r"|\b(?:(?:link|recht)(?:s|e[mnrs]?)|gauche|droite?|(?:izquierd|derech|esquerd|direit|destr)[ao]s?|sinistr[aeio])\b"
    r"|\b(?:лев|прав|слева|справа|налево|направо)|[左右]|왼|오른|बाए[ंँ]|दाए[ंँ]|يسار|يمين",
    re.I,
)
"""Words of sides, in some languages. One more than is needed costs nothing but a mirrored copy; one that is missing
costs a true label."""


class Augment(Model):
    """Chance for training: each draw is keyed by seed, epoch and sample, so that a resumed run draws the same.

    A picture's boxes are those in `meta[boxes]` and the tagged coordinates of the texts (`<box>…</box>`); a crop holds
    all of them, and they move with it. A sample of several pictures whose texts hold coordinates keeps its geometry:
    nobody says which picture is meant, and so does one whose `meta` has boxes or outlines that are no numbers. Videos
    change as one picture. Sizes that views see are those after augmentation.
    """

    crop: tuple[float, float] | None = None
    """Share of the area that a random crop keeps, least and greatest (for example [0.5, 1])."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Shape of a crop, width over height relative to the picture's, least and greatest."""
    scale: tuple[float, float] | None = None
    """Factor on both sides, least and greatest (for example [0.8, 1.2]), which views that keep a picture's size see."""
    flip: float = Field(0.0, ge=0, le=1)
    """Probability of mirroring left and right. Samples whose texts speak of sides (left, rightmost, clockwise, links,
    gauche, 左) are left alone."""
    brightness: float = Field(0.0, ge=0, le=1)
    """Greatest change of the factor, up or down; likewise contrast and saturation."""
    contrast: float = Field(0.0, ge=0, le=1)
    saturation: float = Field(0.0, ge=0, le=1)
    hue: float = Field(0.0, ge=0, le=0.5)
    """Greatest turn of the colour wheel, in turns."""
    boxes: str = "boxes"
    """Field of `meta` with [left, top, right, bottom] in pixels for each box of a sample's only picture."""
    polygons: str = "polygons"
    """Field of `meta` with the outlines [x, y, x, y, ...] in pixels of what lies in each box, a list for each."""
    coordinates: Coordinates = "thousandths"
    """How texts write coordinates: between tags, `thousandths` 0..1000, `bins` 0..999, `unit` 0..1, or `pixels`; or as
    the step `instruct` writes boxes for a family (`paligemma`, `florence2`, `kosmos2`, `qwen3_vl`, `shikra`, ...)."""

    @model_validator(mode="after")
    def _ordered(self) -> Augment:
        for name in ("crop", "aspect", "scale"):
            pair = getattr(self, name)
            if pair is not None and not 0 < pair[0] <= pair[1]:
                raise ValueError(f"{name}: [{pair[0]}, {pair[1]}]: give the least first, and more than 0")
        if self.coordinates in FORMATS and moves_with_size(self.coordinates):
            raise ValueError(
                f"coordinates: {self.coordinates} counts pixels of what a model sees, which cannot be moved"
            )
        if self.crop is not None and self.crop[1] > 1:
            raise ValueError(f"crop: {self.crop[1]}: a crop keeps at most 1, the whole picture")
        return self


def drawn(sample: Sample, rules: Augment | None, *, seed: int, epoch: int) -> Sample:
    """The sample as `augment` makes it in this epoch; the same whenever it is asked for."""
    return sample if rules is None else augment(sample, rules, generator("augment", seed, epoch, sample.key))


def augment(sample: Sample, rules: Augment, rng: np.random.Generator) -> Sample:
    """The sample with its pictures to be changed when they are decoded (`Augmented`), their sizes already so, and
    its boxes and coordinates moved. A medium whose size is not known stays as it is."""
    places = [at for at, part in enumerate(sample.parts) if isinstance(part, Media) and part.kind != "audio"]
    written = any(boxes_in(text.text, (1, 1), rules.coordinates) for text in sample.texts)
    alone = len(places) == 1
    parts = list(sample.parts)
    meta: Mapping[str, Any] = sample.meta
    for at in places:
        medium = parts[at]
        assert isinstance(medium, Media)
        if not medium.height or not medium.width:
            continue
        size = (medium.height, medium.width)
        boxes = _boxes(sample, rules, size) if alone else []
        still = boxes is None or (not alone and (written or rules.boxes in meta))
        sided = any(_SIDES.search(text.text) for text in sample.texts)
        ops = () if still or boxes is None else geometry(size, boxes, rules, rng, mirror=not sided)
        before = (*ops, *colours(rules, rng))
        if not before:
            continue
        move = movement(size, ops)
        parts[at] = Augmented(
            **{field.name: getattr(medium, field.name) for field in fields(Media)}
            | {"height": move.after[0], "width": move.after[1]},
            before=before,
            stored=size,
        )
        if alone and ops:
            parts = [
                replace(part, text=rewrite(part.text, move, rules.coordinates)) if isinstance(part, Text) else part
                for part in parts
            ]
            if meta.get(rules.boxes) is not None:
                meta = {
                    **meta,
                    rules.boxes: [list(move.box([float(side) for side in box])) for box in meta[rules.boxes]],
                }
            if meta.get(rules.polygons) is not None:
                meta = {**meta, rules.polygons: move_polygons(meta[rules.polygons], move)}
    return replace(sample, parts=tuple(parts), meta=meta)


def _boxes(sample: Sample, rules: Augment, size: tuple[int, int]) -> list[Box] | None:
    """The boxes of a sample, None where what `meta` has for them cannot be moved."""
    found = [box for text in sample.texts for box in boxes_in(text.text, size, rules.coordinates)]
    given = _listed(sample.meta.get(rules.boxes))
    outlines = _listed(sample.meta.get(rules.polygons))
    if given is None or outlines is None or not all(_numbers(box) and len(box) == 4 for box in given):
        return None
    for lists in map(_listed, outlines):
        if lists is None or not all(_numbers(outline) and len(outline) % 2 == 0 for outline in lists):
            return None
    return found + [(float(left), float(top), float(right), float(bottom)) for left, top, right, bottom in given]


def _listed(value: Any) -> list[Any] | None:
    """What `meta` lists, nothing for null; None for what is no list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | np.ndarray) else None


def _numbers(values: Any) -> bool:
    if not isinstance(values, list | tuple | np.ndarray):
        return False
    return all(isinstance(value, int | float | np.number) and math.isfinite(value) for value in values)


def geometry(
    size: tuple[int, int], boxes: Sequence[Box], rules: Augment, rng: np.random.Generator, *, mirror: bool = True
) -> tuple[PixelOp, ...]:
    """A draw of crop, scale and mirroring for a picture of `size` (height, width) that holds `boxes`."""
    height, width = size
    ops: list[PixelOp] = []
    if rules.crop is not None:
        crop = random_crop(size, boxes, rules.crop, rules.aspect, rng)
        if (crop.height, crop.width) != size:
            ops.append(crop)
            height, width = crop.height, crop.width
    if rules.scale is not None:
        factor = float(rng.uniform(*rules.scale))
        resized = (max(1, round(height * factor)), max(1, round(width * factor)))
        if resized != (height, width):
            ops.append(Resize(*resized))
    if mirror and rules.flip and rng.random() < rules.flip:
        ops.append(Flip())
    return tuple(ops)


def random_crop(
    size: tuple[int, int],
    boxes: Sequence[Box],
    area: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> Crop:
    """A crop whose share of the area and whose shape (relative to the picture's; uniform in its logarithm) are drawn
    as torchvision's `RandomResizedCrop` draws them, widened where it has to be to hold every box, anywhere that does.

    After ten draws that do not fit into the picture it is the whole of it.
    """
    height, width = size
    left = min([max(0, math.floor(box[0])) for box in boxes], default=width)
    top = min([max(0, math.floor(box[1])) for box in boxes], default=height)
    right = max([min(width, math.ceil(box[2])) for box in boxes], default=0)
    bottom = max([min(height, math.ceil(box[3])) for box in boxes], default=0)
    for _ in range(TRIES):
        share = float(rng.uniform(*area))
        shape = math.exp(float(rng.uniform(math.log(aspect[0]), math.log(aspect[1]))))
        columns = round(width * math.sqrt(share * shape))
        rows = round(height * math.sqrt(share / shape))
        if not (0 < columns <= width and 0 < rows <= height):
            continue
        columns, rows = max(columns, right - left), max(rows, bottom - top)
        first_x, last_x = max(0, right - columns), min(left, width - columns)
        first_y, last_y = max(0, bottom - rows), min(top, height - rows)
        x, y = int(rng.integers(first_x, last_x + 1)), int(rng.integers(first_y, last_y + 1))
        return Crop(y, x, rows, columns)
    return Crop(0, 0, height, width)


def colours(rules: Augment, rng: np.random.Generator) -> tuple[PixelOp, ...]:
    """A draw of the colour factors."""
    ranges = (rules.brightness, rules.contrast, rules.saturation, rules.hue)
    turns = [round(1000 * float(rng.uniform(-most, most))) if most else 0 for most in ranges]
    op = Colour(1000 + turns[0], 1000 + turns[1], 1000 + turns[2], turns[3])
    return () if op == Colour() else (op,)
