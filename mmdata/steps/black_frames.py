"""Drop videos that are black for too much of the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._films import every, pictures, videos
from mmdata.steps._pictures import grey
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 4


@register("step", "black_frames")
class BlackFrames(StepSpec):
    """Write the share of a video's frames that are black as a column `black`, the largest of several; drop samples
    above `max`, as `black_frames`. A frame is black as FFmpeg's `blackframe` has it: nearly all of its pixels are
    dark."""

    kind: Literal["black_frames"] = "black_frames"
    max: float = Field(0.5, ge=0, le=1)
    dark: int = Field(32, ge=1, le=255)
    """A pixel below this level is dark."""
    share: float = Field(0.98, gt=0, le=1)
    """Least share of dark pixels of a black frame."""
    fps: float = Field(2.0, gt=0)
    """Frames per second that are looked at."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        values = []
        for media in videos(sample):
            seen = [float((grey(pixels) < self.dark).mean()) for pixels in pictures(media, every(media, self.fps))]
            values.append(float(np.mean([dark >= self.share for dark in seen])))
        if not values:
            return sample
        value = round(max(values), PLACES)
        if value > self.max:
            return Drop(reason=self.kind, detail=f"{value:.1%} of the frames, more than {self.max:.1%}")
        return with_columns(sample, {"black": value})
