"""Drop pictures that are mostly of one colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._pictures import Pixels, images
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 4
CELL = 16  # Levels of a channel that are counted together when the most frequent colour is looked for.


@register("step", "solid_colour")
class SolidColour(StepSpec):
    """Write the share of a picture's pixels that are of its most frequent colour as a column `solid`, the largest of
    several pictures; drop samples above `max`, as `solid_colour`: placeholders, plain backgrounds, blank pages."""

    needs_pixels: ClassVar[bool] = True

    kind: Literal["solid_colour"] = "solid_colour"
    max: float = Field(0.95, ge=0, le=1)
    """Largest share."""
    tolerance: int = Field(8, ge=0, le=255)
    """How far a channel of a pixel may be from that colour, in levels."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        values = [solid(work.pixels(media), self.tolerance) for media in images(sample)]
        if not values:
            return sample
        value = round(max(values), PLACES)
        if value > self.max:
            return Drop(reason=self.kind, detail=f"{value:.1%} of one colour, more than {self.max:.1%}")
        return with_columns(sample, {"solid": value})


def solid(pixels: Pixels, tolerance: int) -> float:
    """The share of u8[H, W, 3] within `tolerance` of the median colour of its most frequent 16 x 16 x 16 levels."""
    flat = pixels.reshape(-1, 3)
    cells = (flat // CELL).astype(np.int64) @ np.array([256, 16, 1])
    frequent = flat[cells == np.bincount(cells).argmax()]
    colour = np.sort(frequent, axis=0)[len(frequent) // 2].astype(np.int16)
    return float((np.abs(flat - colour) <= tolerance).all(axis=1).mean())
