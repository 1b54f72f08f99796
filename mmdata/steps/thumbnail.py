"""Keep a small likeness of each sample's picture as a column."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._pictures import images
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "thumbnail")
class Thumbnail(StepSpec):
    """Write a small JPEG of a sample's first picture as a column `thumbnail`, a `data:` address that pages can show.
    (The report has its own; this one is for those who browse the dataset.) It makes a sample's JSON some 3 KB
    longer."""

    needs_pixels: ClassVar[bool] = True

    kind: Literal["thumbnail"] = "thumbnail"
    side: int = Field(96, ge=8, le=1024)
    """Pixels of the longer side, at most."""
    quality: int = Field(75, ge=1, le=95)

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        from PIL import Image

        from mmdata.decode import image

        first = next(images(sample), None)
        if first is None:
            return sample
        small = Image.fromarray(work.pixels(first))  # Exact pixels, so that it does not depend on the other steps.
        small.thumbnail((self.side, self.side), reducing_gap=2.0)
        data = base64.b64encode(image.encode(np.asarray(small), "jpeg", self.quality)).decode()
        return with_columns(sample, {"thumbnail": f"data:image/jpeg;base64,{data}"})
