"""Estimate how far speech stands out from the noise, and drop noisy audio."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._sounds import SILENCE, Wave, levels, rate_of, sounds, waveform
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 2
FRAME = 0.032  # Seconds of a frame; a new one begins after half of it.
FLOOR = 10  # Percentile of the frames' levels that is taken for the noise ...
SPEECH = 0.5  # ... and share of the loudest frames, by power above it, that are taken for speech.
MOST = 100.0


@register("step", "snr")
class Snr(StepSpec):
    """Estimate the signal-to-noise ratio of audio with pauses and write it as a column `snr`, in decibels, the least of
    several; drop samples below `min`, as `snr`. The noise is what is heard in the quietest tenth of the time, the
    signal what is heard above it while somebody speaks. So it needs pauses and steady noise: music and other sound
    without pauses look noisy, and noise that comes and goes with the speech is not seen."""

    kind: Literal["snr"] = "snr"
    min: float = Field(-20.0, ge=-20, le=MOST)
    """Decibels. Recordings in a studio have 40 and more, telephones 20, a busy street 5."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        values = [snr(waveform(media), rate_of(media)) for media in sounds(sample)]
        known = [value for value in values if value is not None]
        if not known:
            return with_columns(sample, {"snr": None}) if values else sample
        value = round(min(known), PLACES)
        if value < self.min:
            return Drop(reason=self.kind, detail=f"{value:g} dB, below {self.min:g}")
        return with_columns(sample, {"snr": value})


def snr(wave: Wave, rate: int) -> float | None:
    """Decibels of a mono waveform, -20 to 100; None where it is silent or shorter than ten frames."""
    frame = round(FRAME * rate)
    power = levels(wave, frame, frame // 2)[1:-1]
    if len(power) < 10 or power.max() <= SILENCE:
        return None
    noise = max(float(np.percentile(power, FLOOR)), SILENCE)
    above = power[power > 2 * noise]
    if not len(above):
        return -20.0
    loudest = np.sort(above)[int(len(above) * (1 - SPEECH)) :] if len(above) < 4 else above
    signal = float(loudest.mean()) - noise
    return min(MOST, max(-20.0, 10 * math.log10(max(signal, SILENCE) / noise)))
