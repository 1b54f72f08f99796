"""Measure how much moves in videos; drop stills and shaking."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._films import Pixels, every, pictures, videos
from mmdata.steps._pictures import grey, reduced
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 4
LONGEST = 160  # Pixels of the pictures whose differences are taken.


@register("step", "motion")
class Motion(StepSpec):
    """Write three columns of a sample's first video: `motion`, the mean length in pixels of its blocks' motion between
    the frames looked at (`mmdata.views.motion`); `cut_motion`, its largest value; and `static`, the share of those
    frames that are the same as the one before but for noise. Drop samples outside the bounds: as `motion`, or as
    `static`: slide shows, logos and frozen pictures."""

    kind: Literal["motion"] = "motion"
    min: float = Field(0.0, ge=0)
    """Least mean motion, in pixels of the picture."""
    max: float | None = Field(None, gt=0)
    max_static: float = Field(1.0, ge=0, le=1)
    """Largest share of frames without change."""
    noise: float = Field(1.0, ge=0)
    """Mean difference of brightness, in levels, that is no change."""
    fps: float = Field(4.0, gt=0)
    """Frames per second that are looked at."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        from mmdata.views import motion

        first = next(videos(sample), None)
        if first is None:
            return sample
        flows, static = [0.0], 0
        seen, again = itertools.tee(pictures(first, every(first, self.fps)))
        for change, difference in zip(motion.changes(seen), _differences(again), strict=True):
            if difference is not None:
                flows.append(change.flow)
                static += difference <= self.noise
        flows = flows[1:] or flows
        mean, share = round(float(np.mean(flows)), PLACES), round(static / len(flows), PLACES)
        if share > self.max_static:
            return Drop(reason="static", detail=f"{share:.1%} of the frames, more than {self.max_static:.1%}")
        if mean < self.min or (self.max is not None and mean > self.max):
            return Drop(reason=self.kind, detail=f"{mean:g} pixels on average")
        return with_columns(sample, {"motion": mean, "cut_motion": round(max(flows), PLACES), "static": share})


def _differences(frames: Iterator[Pixels]) -> Iterator[float | None]:
    """The mean absolute difference of brightness of each frame from the one before; None for the first."""
    before = None
    for frame in frames:
        now = reduced(grey(frame), LONGEST).astype(np.int16)
        yield None if before is None else float(np.abs(now - before).mean())
        before = now
