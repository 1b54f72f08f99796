"""Segments where they were put, in noise, and audio cut into them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from mmdata.steps._sounds import waveform
from mmdata.steps.voice_activity import VoiceActivity
from tests.steps.given import build, record
from tests.steps.recordings import RATE, audio, bursts

SPANS = [(0.4, 1.0), (1.6, 2.3), (2.9, 3.2)]


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01, 0.03])
def test_where_they_were_put(noise: float) -> None:
    wave = bursts(SPANS, 3.6, noise=noise)
    found = VoiceActivity(pad=0).segments(wave, RATE)
    assert len(found) == len(SPANS)
    for (start, stop), (begin, end) in zip(found, SPANS, strict=True):
        assert start / RATE == pytest.approx(begin, abs=0.03)
        assert stop / RATE == pytest.approx(end, abs=0.03)


def test_pauses_pieces_and_padding() -> None:
    wave = bursts(SPANS, 3.6, noise=0.001)
    assert len(VoiceActivity(min_pause=0.65).segments(wave, RATE)) == 1
    assert len(VoiceActivity(min_speech=0.5).segments(wave, RATE)) == 2
    pieces = VoiceActivity(max_seconds=0.45).segments(wave, RATE)
    assert all(stop - start <= 0.45 * RATE for start, stop in pieces)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(pieces))
    assert len(pieces) > 3
    assert VoiceActivity().segments(np.zeros(RATE, np.float32), RATE) == []
    assert VoiceActivity().segments(bursts([(0, 1)], 1, noise=0.0), RATE) == [(0, RATE)]
    # No part is empty, and none is longer than it may be, whatever the padding; and pieces may be very many.
    for pad in (0.2, 0.6, 100.0):
        found = VoiceActivity(pad=pad).segments(wave, RATE)
        assert all(start < stop for start, stop in found)
        with pytest.raises(ValidationError, match="leaves nothing between pad at both ends"):
            VoiceActivity(pad=pad, max_seconds=2 * pad + 0.03)
    long = np.tile(bursts([(0, 1)], 1, noise=0.001), 900)
    pieces = VoiceActivity(min_speech=0.02, max_seconds=0.4).segments(long, RATE)
    assert len(pieces) > 2000
    assert max(stop - start for start, stop in pieces) <= 0.4 * RATE
    with pytest.raises(ValidationError, match="four times"):
        VoiceActivity(max_seconds=0.2)


def test_a_build(tmp_path: Path) -> None:
    wave = bursts(SPANS, 3.6, noise=0.001)
    records = [record(audio(wave), "text"), record(audio(np.zeros(RATE, np.float32)), "text"), record("none")]
    step = {"kind": "voice_activity", "cut": "segments", "min_share": 0.2}
    built = build(tmp_path, records, [step])
    assert built.reasons == ["", "voice_activity", ""]
    sample = built.samples[0]
    assert [media.kind for media in sample.media] == ["audio"] * 3
    assert [text.text for text in sample.texts] == ["text"]
    for media, (start, stop) in zip(sample.media, sample.meta["speech"], strict=True):
        piece = wave[round(start * RATE) : round(stop * RATE)]
        assert np.abs(waveform(media) - piece).max() < 2 / 32768
    assert sample.meta["speech_share"] == pytest.approx((0.6 + 0.7 + 0.3 + 6 * 0.05) / 3.6, abs=0.03)
