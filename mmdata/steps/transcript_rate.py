"""Drop recordings whose transcript is too long or too short for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._sounds import seconds, sounds
from mmdata.steps._texts import Roles, chosen
from mmdata.steps.caption_length import characters, words
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 3


@register("step", "transcript_rate")
class TranscriptRate(StepSpec):
    """Write how much is said per second as a column `per_second`, and drop samples outside the bounds, as
    `transcript_rate`: transcripts of other recordings, untranscribed stretches, and text where nobody speaks. Looks at
    facts; decodes nothing where `probe` has been before."""

    kind: Literal["transcript_rate"] = "transcript_rate"
    unit: Literal["chars", "words"] = "chars"
    """What is counted, as in `caption_length`. People speak 10 to 20 characters, or 2 to 4 words, of English a
    second."""
    min: float = Field(0.0, ge=0)
    max: float | None = Field(None, gt=0)
    video: bool = False
    """Count videos with sound, too."""
    roles: Roles = ()
    """The texts that are the transcript, by role. Default: all."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}: nothing would be kept")
        return self

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        length = sum(seconds(media) for media in sounds(sample, video=self.video))
        if not length:
            return sample
        count = sum((characters if self.unit == "chars" else words)(text) for text in chosen(sample, self.roles))
        rate = round(count / length, PLACES)
        if rate < self.min or (self.max is not None and rate > self.max):
            return Drop(reason=self.kind, detail=f"{count} {self.unit} in {length:.2f} s, {rate:g} a second")
        return with_columns(sample, {"per_second": rate})
