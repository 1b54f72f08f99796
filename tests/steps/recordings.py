"""Sounds that the tests of steps make: bursts like speech with pauses, in noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmdata.types import Media
from tests.decode.sounds import by_soundfile

RATE = 16_000
Wave = npt.NDArray[np.float32]


def audio(wave: Wave, rate: int = RATE, format: str = "WAV", subtype: str = "PCM_16") -> Media:
    """A medium of float32 [samples] or [samples, channels]."""
    return Media(kind="audio", data=by_soundfile(wave, rate, format, subtype))


def tone(seconds: float, decibels: float, hertz: float = 1000.0, rate: int = RATE) -> Wave:
    """A sine whose peak has so many decibels of full scale."""
    time = np.arange(round(seconds * rate)) / rate
    return (10 ** (decibels / 20) * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def bursts(
    spans: list[tuple[float, float]], seconds: float, *, noise: float, level: float = 0.3, seed: int = 0
) -> Wave:
    """Noise coloured like a voice in these spans of time, and white noise of RMS `noise` throughout."""
    random = np.random.default_rng(seed)
    wave = noise * random.standard_normal(round(seconds * RATE))
    for start, stop in spans:
        count = round(stop * RATE) - round(start * RATE)
        voice = np.convolve(random.standard_normal(count), np.ones(8) / 8, "same")
        voice *= level / np.sqrt((voice**2).mean())
        wave[round(start * RATE) : round(start * RATE) + count] += voice.clip(-3 * level, 3 * level)
    return wave.clip(-1, 1).astype(np.float32)
