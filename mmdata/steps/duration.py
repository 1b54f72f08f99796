"""Drop samples with audio or video that is too short or too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._sounds import seconds
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "duration")
class Duration(StepSpec):
    """Drop samples with audio or a video whose length is outside the bounds. Looks at facts, or else at files' headers
    (of formats whose headers do not say, at their packets or sound)."""

    kind: Literal["duration"] = "duration"
    min_seconds: float = Field(0.0, ge=0)
    max_seconds: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_seconds is not None and self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds} is more than max_seconds: nothing would be kept")
        return self

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        for media in sample.media:
            if media.kind == "image":
                continue
            length = seconds(media)
            if length < self.min_seconds:
                return Drop(reason=self.kind, detail=f"{length:.3f} s of {media.kind}, below {self.min_seconds:g}")
            if self.max_seconds is not None and length > self.max_seconds:
                return Drop(reason=self.kind, detail=f"{length:.3f} s of {media.kind}, above {self.max_seconds:g}")
        return sample
