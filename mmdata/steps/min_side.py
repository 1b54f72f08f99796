"""Drop samples with a picture that is too small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "min_side")
class MinSide(StepSpec):
    """Drop samples with a picture whose shorter side is below `pixels`. Looks at facts, or else at headers; decodes
    nothing."""

    kind: Literal["min_side"] = "min_side"
    pixels: int = Field(ge=1)
    """Least length of the shorter side, in pixels of the upright picture."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        for media in sample.media:
            if media.kind != "image":
                continue
            height, width = work.size(media)
            if min(height, width) < self.pixels:
                return Drop(reason=self.kind, detail=f"{width}x{height}, shorter side below {self.pixels}")
        return sample
