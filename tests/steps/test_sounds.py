"""Levels by brute force, and media of other waveforms."""

from __future__ import annotations

import numpy as np
import pytest

from mmdata.errors import DataError
from mmdata.steps._sounds import decibels, encoded, levels, rate_of, replaced, seconds, sounds, waveform
from mmdata.types import Media, Origin, Sample, Text
from tests.decode.clips import clip
from tests.steps.recordings import RATE, audio, tone


@pytest.mark.parametrize(("samples", "frame", "hop"), [(1000, 64, 16), (999, 48, 16), (5, 8, 4), (0, 8, 4)])
def test_levels(samples: int, frame: int, hop: int) -> None:
    wave = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    padded = np.pad(wave.astype(np.float64), frame // 2)
    starts = [at for at in range(0, samples + 1, hop) if at + frame <= len(padded)]
    expected = [float((padded[at : at + frame] ** 2).mean()) for at in starts]
    assert levels(wave, frame, hop) == pytest.approx(expected)
    assert decibels(np.array([1.0, 0.01, 0.0])).tolist() == [0.0, -20.0, -100.0]


@pytest.mark.parametrize("format", ["flac", "wav"])
def test_encoded_and_read_again(format: str) -> None:
    wave = np.stack([tone(0.5, -6), 1.5 * tone(0.5, 0)])
    made = encoded(Media(kind="audio", data=b""), wave, RATE, format)  # type: ignore[arg-type]
    assert (made.format, made.sample_rate, made.channels, made.samples, made.seconds) == (format, RATE, 2, 8000, 0.5)
    again = waveform(made, mono=False)
    assert np.abs(again - wave.clip(-1, 1)).max() <= 1.01 / 32768
    bare = Media(kind="audio", data=made.data)
    assert (rate_of(bare), seconds(bare)) == (RATE, 0.5)


def test_which_parts() -> None:
    video = Media(kind="video", data=clip(sound=True, frames=10), channels=1)
    parts = (audio(tone(0.1, -6)), Text(text="x"), video)
    sample = Sample(key="k", parts=parts, origin=Origin(uri="t", row=0))
    assert len(list(sounds(sample))) == 1
    assert len(list(sounds(sample, video=True))) == 2
    doubled = replaced(sample, lambda media: (media, media))
    assert [type(part).__name__ for part in doubled.parts] == ["Media", "Media", "Text", "Media"]
    with pytest.raises(DataError):
        seconds(Media(kind="audio", data=b"no sound at all"))
