"""Measure how sharp pictures are, and drop blurred ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._pictures import Pixels, grey, images, reduced
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 3


@register("step", "blur")
class Blur(StepSpec):
    """Write the variance of the Laplacian of a picture's brightness as a column `sharpness` (Pech-Pacheco et al. 2000;
    OpenCV's `Laplacian(grey).var()`), the least of several pictures; drop samples below `min`, as `blur`. It grows with
    contrast and depends on size, which `longest` makes comparable."""

    needs_pixels: ClassVar[bool] = True

    kind: Literal["blur"] = "blur"
    min: float = Field(0.0, ge=0)
    """Least sharpness. At 512 pixels photographs in focus have 100 and more, soft ones less than 50; see your own
    column before choosing."""
    longest: int = Field(512, ge=16)
    """Larger pictures are first averaged down to sides of at most so many pixels."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        values = [sharpness(reduced(grey(work.pixels(media)), self.longest)) for media in images(sample)]
        if not values:
            return sample
        value = round(min(values), PLACES)
        if value < self.min:
            return Drop(reason=self.kind, detail=f"sharpness {value:g} below {self.min:g}")
        return with_columns(sample, {"sharpness": value})


def sharpness(grey: Pixels) -> float:
    """The variance of the Laplacian of u8[H, W]; beyond the border lies the mirror of what is inside (101)."""
    if min(grey.shape) < 2:
        return 0.0
    wide = np.pad(grey.astype(np.int32), 1, mode="reflect")
    around = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
    return float((around - 4 * wide[1:-1, 1:-1]).var())
