"""Measure how much is to be seen in pictures, and drop empty ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._pictures import Pixels, grey, images
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 4


@register("step", "entropy")
class Entropy(StepSpec):
    """Write the Shannon entropy of a picture's 256 levels of brightness as a column `entropy`, 0 to 8 bits, the least
    of several pictures; drop samples outside the bounds, as `entropy`. Photographs have 6 to 7.9, drawings on white and
    icons 1 to 4, a plain area 0."""

    needs_pixels: ClassVar[bool] = True

    kind: Literal["entropy"] = "entropy"
    min: float = Field(0.0, ge=0, le=8)
    max: float = Field(8.0, ge=0, le=8)

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        values = [entropy(grey(work.pixels(media))) for media in images(sample)]
        if not values:
            return sample
        value = round(min(values), PLACES)
        if not self.min <= value <= self.max:
            return Drop(reason=self.kind, detail=f"{value:g} bits, not within {self.min:g} to {self.max:g}")
        return with_columns(sample, {"entropy": value})


def entropy(grey: Pixels) -> float:
    """Bits per pixel of u8[H, W]'s histogram.

    >>> entropy(np.array([[0, 255], [0, 255]], np.uint8))
    1.0
    """
    shares = np.bincount(grey.reshape(-1), minlength=256) / grey.size
    some = shares[shares > 0]
    return float(abs((some * np.log2(some)).sum()))
