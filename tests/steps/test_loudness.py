"""Loudness: the test signals of EBU Tech 3341, and pyloudnorm on noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyloudnorm
import pytest

from mmdata.steps._sounds import waveform
from mmdata.steps.loudness import coefficients, loudness
from tests.steps.given import build, record
from tests.steps.recordings import RATE, audio, bursts, tone


def stereo(*pieces: tuple[float, float], rate: int = RATE) -> np.ndarray:
    """A tone of 1 kHz in both channels: so many decibels for so many seconds, one after the other."""
    wave = np.concatenate([tone(seconds, level, rate=rate) for level, seconds in pieces])
    return np.stack([wave, wave])


# EBU Tech 3341, table 1: signals 1 to 5, expected within 0.1 LU.
SIGNALS = [
    ([(-23.0, 20.0)], -23.0),
    ([(-33.0, 20.0)], -33.0),
    ([(-36.0, 10.0), (-23.0, 60.0), (-36.0, 10.0)], -23.0),
    ([(-72.0, 10.0), (-36.0, 10.0), (-23.0, 60.0), (-36.0, 10.0), (-72.0, 10.0)], -23.0),
    ([(-26.0, 20.0), (-20.0, 20.1), (-26.0, 20.0)], -23.0),
]


@pytest.mark.parametrize(("pieces", "expected"), SIGNALS)
def test_ebu_tech_3341(pieces: list[tuple[float, float]], expected: float) -> None:
    assert loudness(stereo(*pieces), RATE) == pytest.approx(expected, abs=0.1)


def test_ebu_tech_3341_at_48_khz_and_in_5_1() -> None:
    assert loudness(stereo((-23.0, 5.0), rate=48_000), 48_000) == pytest.approx(-23.0, abs=0.1)
    levels = (-28.0, -28.0, -24.0, -200.0, -30.0, -30.0)  # signal 6
    surround = np.stack([tone(5, level) for level in levels])
    assert loudness(surround, RATE) == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize(
    ("order", "channels"),
    [("0 1 2 3 4", 5), ("0 1 2 - 3 4", 6), ("0 1 2 - - 3 4", 7), ("0 1 2 - - - 3 4", 8)],
)
def test_surrounds_count_more_and_low_frequencies_not_at_all(order: str, channels: int) -> None:
    """Layouts of FFmpeg with the same sound from the same places; the channel for low frequencies is loud."""
    levels = (-28.0, -28.0, -24.0, -30.0, -30.0)  # signal 6 of EBU Tech 3341, without its silent channel
    silent = np.zeros_like(tone(5, -20))
    wave = [silent if place == "-" else tone(5, levels[int(place)]) for place in order.split()]
    if channels > 5:
        wave[3] = tone(5, -3)
    assert len(wave) == channels
    assert loudness(np.stack(wave), RATE) == pytest.approx(-23.0, abs=0.1)


def test_coefficients_of_bs_1770() -> None:
    (b, a), (high_b, high_a) = coefficients(48_000)
    assert b == pytest.approx([1.53512485958697, -2.69169618940638, 1.19839281085285], abs=1e-9)
    assert a == pytest.approx([1.0, -1.69065929318241, 0.73248077421585], abs=1e-9)
    assert high_b == [1.0, -2.0, 1.0]
    assert high_a == pytest.approx([1.0, -1.99004745483398, 0.99007225036621], abs=1e-9)


def test_pyloudnorm() -> None:
    wave = bursts([(0.2, 1.5), (2.0, 2.4)], 3.0, noise=0.01)
    meter = pyloudnorm.Meter(RATE, filter_class="DeMan")
    assert loudness(wave[None], RATE) == pytest.approx(meter.integrated_loudness(wave.astype(float)), abs=0.1)


def test_a_build(tmp_path: Path) -> None:
    records = [record(audio(tone(1, level))) for level in (-30.0, -20.0, -50.0)]
    records += [record(audio(tone(0.2, -20))), record("no sound")]
    step = {"kind": "loudness", "target": -23, "min": -48}
    built = build(tmp_path, records, [step])
    assert built.reasons == ["", "", "loudness", "loudness", ""]
    assert built.details[2].startswith("-5")
    assert built.details[3] == "not to be measured, not within -48 to inf"
    assert built.column("loudness") == [pytest.approx(-33.0, abs=0.05), pytest.approx(-23.0, abs=0.05), None]
    for sample in built.samples[:2]:
        assert loudness(waveform(sample.media[0], mono=False), RATE) == pytest.approx(-23, abs=0.02)
    loud = build(tmp_path, records[:1], [{"kind": "loudness", "target": -5, "peak": -3}], name="loud")
    assert np.abs(waveform(loud.samples[0].media[0])).max() == pytest.approx(10 ** (-3 / 20), abs=1e-3)
