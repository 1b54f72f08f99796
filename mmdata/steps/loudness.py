"""Measure how loud audio is, and bring all to one loudness."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._sounds import Wave, encoded, rate_of, replaced, sounds, waveform
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 2
BLOCK, OVERLAP = 0.4, 0.75  # Seconds of a gating block, and the share that it has in common with the next.
ABSOLUTE, RELATIVE = -70.0, -10.0  # The gates, LUFS and LU.
OFFSET = -0.691  # So that a full-scale sine of 997 Hz in one channel has -3.01.
SIDE = 1.41  # Weight of what is heard from 60 to 120 degrees (BS.1770-4, annex 3).
WEIGHTS = {
    5: (1.0, 1.0, 1.0, SIDE, SIDE),
    6: (1.0, 1.0, 1.0, 0.0, SIDE, SIDE),
    7: (1.0, 1.0, 1.0, 0.0, 1.0, SIDE, SIDE),
    8: (1.0, 1.0, 1.0, 0.0, 1.0, 1.0, SIDE, SIDE),
}
"""Weights of 5.0, 5.1, 6.1 and 7.1 in FFmpeg's order: front left, right, centre, low frequencies, back (of 5.0 and 5.1
the surrounds), side."""


@register("step", "loudness")
class Loudness(StepSpec):
    """Write the programme loudness of a sample's first audio as a column `loudness`, in LUFS (ITU-R BS.1770-4, which is
    EBU R 128's measure); null below 0.4 s and for silence. Drop samples outside the bounds, as `loudness`. With
    `target` all audio is amplified to that loudness and written as 16-bit FLAC."""

    kind: Literal["loudness"] = "loudness"
    min: float | None = Field(None, ge=-70, le=0)
    """LUFS. What cannot be measured is dropped, too, where a bound is given."""
    max: float | None = Field(None, ge=-70, le=0)
    target: float | None = Field(None, ge=-70, le=0)
    """LUFS: -23 for broadcasts (EBU R 128), -16 to -14 for speech and music on the web."""
    peak: float = Field(-1.0, le=0)
    """With `target`: highest peak of a sample, in dB of full scale; the gain is smaller where it would be exceeded."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        first = next(sounds(sample), None)
        if first is None:
            return sample
        value = loudness(waveform(first, mono=False), rate_of(first))
        value = None if value is None else round(value, PLACES)
        if self.min is not None or self.max is not None:
            low, high = self.min if self.min is not None else -math.inf, self.max if self.max is not None else math.inf
            if value is None or not low <= value <= high:
                shown = "not to be measured" if value is None else f"{value:g} LUFS"
                return Drop(reason=self.kind, detail=f"{shown}, not within {low:g} to {high:g}")
        if self.target is not None:
            sample = replaced(sample, self._amplified)
        return with_columns(sample, {"loudness": value})

    def _amplified(self, media: Media) -> Media:
        assert self.target is not None
        wave, rate = waveform(media, mono=False), rate_of(media)
        value = loudness(wave, rate)
        if value is None:
            return media
        gain = 10 ** ((self.target - value) / 20)
        highest = float(np.abs(wave).max())
        gain = min(gain, 10 ** (self.peak / 20) / highest)
        return encoded(media, (wave * np.float32(gain)).astype(np.float32), rate)


def loudness(wave: Wave, rate: int) -> float | None:
    """LUFS of float32 [channels, samples]; None where there is no block of 0.4 s above the gate.

    Two gates: blocks below -70 LUFS do not count, nor those 10 LU below the mean of the others.
    """
    block = round(BLOCK * rate)
    step = round(BLOCK * (1 - OVERLAP) * rate)
    if wave.shape[1] < block:
        return None
    energy = np.stack([_block_energy(_weighted(channel, rate), block, step) for channel in wave])
    weights = np.array(WEIGHTS.get(len(wave), (1.0,) * len(wave)))
    power = weights @ energy
    held = power > _power(ABSOLUTE)
    if not held.any():
        return None
    held &= power > power[held].mean() * 10 ** (RELATIVE / 10)
    return OFFSET + 10 * math.log10(float(power[held].mean()))


def _power(lufs: float) -> float:
    return float(10 ** ((lufs - OFFSET) / 10))


def _block_energy(wave: np.ndarray, block: int, step: int) -> np.ndarray:
    sums = np.concatenate([[0.0], np.cumsum(wave**2)])
    starts = np.arange(0, len(wave) - block + 1, step)
    made: np.ndarray = (sums[starts + block] - sums[starts]) / block
    return made


def _weighted(channel: np.ndarray, rate: int) -> np.ndarray:
    """K-weighting of one channel: float64 [samples]. A shelf for the head, and a high pass, for any rate by the
    parameters that give BS.1770's coefficients at 48 kHz (De Man, "Evaluation of implementations of the EBU R128
    loudness measurement", AES 2018)."""
    import torch
    from torchaudio.functional import lfilter  # type: ignore[import-untyped]

    shelf, high_pass = coefficients(rate)
    signal = torch.from_numpy(channel.astype(np.float64))
    for b, a in (shelf, high_pass):
        signal = lfilter(
            signal, torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), clamp=False
        )
    made: np.ndarray = signal.numpy()
    return made


def coefficients(rate: int) -> tuple[tuple[list[float], list[float]], tuple[list[float], list[float]]]:
    """(b, a) of the shelf and of the high pass.

    >>> [round(value, 8) for b, a in coefficients(48_000) for value in (*b, *a)][:3]
    [1.53512486, -2.69169619, 1.19839281]
    """
    gain, q, frequency = 3.999843853973347, 0.7071752369554196, 1681.974450955533
    k = math.tan(math.pi * frequency / rate)
    high = 10 ** (gain / 20)
    band = high**0.4996667741545416
    norm = 1 + k / q + k * k
    shelf = (
        [(high + band * k / q + k * k) / norm, 2 * (k * k - high) / norm, (high - band * k / q + k * k) / norm],
        [1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm],
    )
    q, frequency = 0.5003270373238773, 38.13547087602444
    k = math.tan(math.pi * frequency / rate)
    norm = 1 + k / q + k * k
    return shelf, ([1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm])
