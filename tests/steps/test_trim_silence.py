"""The same samples as librosa leaves."""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import pytest

from mmdata.steps._sounds import waveform
from mmdata.steps.trim_silence import bounds
from tests.steps.given import build, record
from tests.steps.recordings import RATE, audio, bursts, tone


@pytest.mark.parametrize("top_db", [20.0, 40.0, 60.0])
@pytest.mark.parametrize("spans", [[(0.5, 1.1)], [(0.0, 0.3), (1.6, 2.0)], [(0.9, 0.95)]])
def test_librosa(top_db: float, spans: list[tuple[float, float]]) -> None:
    wave = bursts(spans, 2.0, noise=0.0005)
    _, expected = librosa.effects.trim(wave, top_db=top_db)
    assert bounds(wave, top_db) == tuple(expected)


def test_a_build(tmp_path: Path) -> None:
    wave = np.concatenate([np.zeros(RATE, np.float32), tone(0.5, -6), np.zeros(RATE, np.float32)])
    whole = audio(tone(0.5, -6))
    records = [record(audio(wave)), record(whole), record(audio(np.zeros(RATE, np.float32)))]
    built = build(tmp_path, records, [{"kind": "trim_silence", "keep_seconds": 0.1}])
    assert built.reasons == ["", "", "silence"]
    trimmed = built.samples[0].media[0]
    assert 0.6 < trimmed.seconds < 0.9  # type: ignore[operator]
    start, stop = librosa.effects.trim(wave, top_db=60)[1]
    extra = round(0.1 * RATE)
    assert np.abs(waveform(trimmed) - wave[start - extra : stop + extra]).max() < 1e-4
    assert built.samples[1].media[0].data == whole.data
