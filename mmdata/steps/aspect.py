"""Drop samples with a picture that is too long and narrow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "aspect")
class Aspect(StepSpec):
    """Drop samples with a picture whose longer side is more than `max` times its shorter one: banners, dividers and
    strips. Looks at facts, or else at headers; decodes nothing."""

    kind: Literal["aspect"] = "aspect"
    max: float = Field(ge=1)
    """Greatest ratio of the longer to the shorter side; 1 keeps squares only."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        for media in sample.media:
            if media.kind != "image":
                continue
            height, width = work.size(media)
            long, short = max(height, width), min(height, width)
            if long > self.max * short:
                return Drop(reason=self.kind, detail=f"{width}x{height}, ratio {long / short:.2f} above {self.max:g}")
        return sample
