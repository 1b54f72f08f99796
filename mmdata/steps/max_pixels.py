"""Drop samples with a picture that is too large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "max_pixels")
class MaxPixels(StepSpec):
    """Drop samples with a picture of more than `pixels` pixels. Looks at facts, or else at headers; decodes nothing.
    To shrink large pictures instead, use `resize` with mode `cap_pixels`."""

    kind: Literal["max_pixels"] = "max_pixels"
    pixels: int = Field(ge=1)
    """Most pixels (height times width) of one picture."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        for media in sample.media:
            if media.kind != "image":
                continue
            height, width = work.size(media)
            if height * width > self.pixels:
                return Drop(
                    reason=self.kind, detail=f"{width}x{height} is {height * width:,} pixels, above {self.pixels:,}"
                )
        return sample
