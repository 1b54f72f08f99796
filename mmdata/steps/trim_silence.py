"""Cut silence from the beginning and the end of audio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._sounds import SILENCE, Wave, decibels, encoded, levels, rate_of, replaced, sounds, waveform
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

FRAME, HOP = 2048, 512  # Samples, as librosa has them.


@register("step", "trim_silence")
class TrimSilence(StepSpec):
    """Cut from both ends of audio what is more than `top_db` below its loudest frame, as `librosa.effects.trim` does,
    but for `keep_seconds`; what is cut is written as 16-bit FLAC, other audio keeps its bytes. A sample whose audio is
    silent altogether is dropped, as `silence`."""

    kind: Literal["trim_silence"] = "trim_silence"
    top_db: float = Field(60.0, gt=0)
    """How many decibels below the loudest frame count as silence."""
    keep_seconds: float = Field(0.0, ge=0)
    """Silence that is left at each end."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        for media in sounds(sample):
            wave = waveform(media)
            if not len(wave) or levels(wave, FRAME, HOP).max() <= SILENCE:
                return Drop(reason="silence", detail="no frame is above -100 dB")
        return replaced(sample, self._trimmed)

    def _trimmed(self, media: Media) -> Media:
        wave, rate = waveform(media, mono=False), rate_of(media)
        start, stop = bounds(wave.mean(axis=0), self.top_db)
        extra = round(self.keep_seconds * rate)
        start, stop = max(0, start - extra), min(wave.shape[1], stop + extra)
        return media if (start, stop) == (0, wave.shape[1]) else encoded(media, wave[:, start:stop], rate)


def bounds(wave: Wave, top_db: float) -> tuple[int, int]:
    """Samples start <= i < stop of a mono waveform that are left."""
    level = decibels(levels(wave, FRAME, HOP))
    loud = np.flatnonzero(level - level.max() > -top_db)
    return int(loud[0]) * HOP, min(len(wave), (int(loud[-1]) + 1) * HOP)
