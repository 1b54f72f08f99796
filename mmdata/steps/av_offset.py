"""Estimate by how much the sound of a video is late, and drop videos out of step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._films import heard, pictures, times, videos, with_facts
from mmdata.steps._pictures import grey, reduced
from mmdata.steps._sounds import decibels, levels
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

Series = npt.NDArray[np.float64]
RATE = 16_000  # Hz of the sound that is looked at.
LONGEST = 64  # Pixels of the pictures whose differences are taken.
QUIET = -60.0  # dB of full scale, below which changes are not heard.


@register("step", "av_offset")
class AvOffset(StepSpec):
    """Estimate from the content by how many seconds a video's sound comes after its pictures, and write it as columns
    `av_offset` and `av_confidence` (of the first video with sound; null where there is none). What changes in the
    picture is correlated with what begins in the sound, at all shifts up to `reach`; the confidence is how many
    standard deviations the best shift stands above the others. It works where something is seen when it is heard
    (claps, impacts, cuts to the beat); of a voice off screen it says nothing, at a low confidence.

    Samples whose offset is beyond `max` with at least `min_confidence` are dropped, as `av_offset`."""

    kind: Literal["av_offset"] = "av_offset"
    max: float | None = Field(None, gt=0)
    """Seconds, either way. Default: only the columns."""
    min_confidence: float = Field(5.0, ge=0)
    """Below it nothing is dropped."""
    reach: float = Field(1.0, gt=0, le=10)
    """Seconds, either way, that are tried."""
    fps: float = Field(25.0, gt=0)
    """Steps of a second: the resolution of the estimate."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        found = (with_facts(media) for media in videos(sample))
        media = next((media for media in found if media.channels), None)
        if media is None:
            return with_columns(sample, {"av_offset": None, "av_confidence": None})
        offset, confidence = self.estimate(media)
        if self.max is not None and abs(offset) > self.max and confidence >= self.min_confidence:
            return Drop(reason=self.kind, detail=f"{offset:+.3f} s, confidence {confidence:.1f}")
        return with_columns(sample, {"av_offset": round(offset, 3), "av_confidence": round(confidence, 2)})

    def estimate(self, media: Media) -> tuple[float, float]:
        """Seconds by which the sound is late, and the confidence."""
        seen, heard = _seen(media, self.fps), _heard(media, self.fps)
        length = min(len(seen), len(heard))
        reach = min(round(self.reach * self.fps), max(0, length - 2))
        seen, heard = seen[:length], heard[:length]
        if length < 3 or not seen.any() or not heard.any():
            return 0.0, 0.0
        seen, heard = seen - seen.mean(), heard - heard.mean()
        shifts = np.arange(-reach, reach + 1)
        scores = np.array([float(_shifted(seen, heard, int(shift))) for shift in shifts])
        best = int(scores.argmax())
        rest = np.delete(scores, [at for at in (best - 1, best, best + 1) if 0 <= at < len(scores)])
        spread = float(rest.std()) if len(rest) else 0.0
        return float(shifts[best]) / self.fps, float((scores[best] - rest.mean()) / spread) if spread else 0.0


def _shifted(seen: Series, heard: Series, shift: int) -> float:
    """The correlation of what is seen with what is heard `shift` steps later."""
    length = len(seen) - abs(shift)
    left = seen[max(0, -shift) :][:length]
    right = heard[max(0, shift) :][:length]
    return float(left @ right)


def _seen(media: Media, fps: float) -> Series:
    """How much the picture changes in each step of time."""
    shown = times(media)
    made = np.zeros(round(float(shown[-1]) * fps) + 1)
    before = None
    for at, pixels in zip(shown, pictures(media), strict=True):
        now = reduced(grey(pixels), LONGEST).astype(np.int16)
        if before is not None:
            made[round(float(at) * fps)] += float(np.abs(now - before).mean())
        before = now
    return made


def _heard(media: Media, fps: float) -> Series:
    """How much louder the sound becomes in each step of time."""
    hop = round(RATE / fps)
    level = np.maximum(decibels(levels(heard(media, sample_rate=RATE), hop, hop)), QUIET)
    return np.maximum(np.diff(level, prepend=level[:1]), 0.0)
