"""Rate, channels and format, against torchaudio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchaudio

from mmdata.steps._sounds import waveform
from tests.decode.sounds import chirp
from tests.steps.given import build, record
from tests.steps.recordings import audio, tone


def test_a_build(tmp_path: Path) -> None:
    stereo = chirp(0.5)
    same = audio(tone(0.5, -6), format="FLAC")
    built = build(tmp_path, [record(audio(stereo, 22_050)), record(same)], [{"kind": "audio_resample"}])
    first, second = (sample.media[0] for sample in built.samples)
    assert (first.format, first.sample_rate, first.channels, first.samples) == ("flac", 16_000, 1, 8000)
    written = np.rint(stereo * 32768).clip(-32768, 32767) / 32768
    truth = torchaudio.functional.resample(torch.from_numpy(written.mean(axis=1)), 22_050, 16_000).numpy()
    assert np.abs(waveform(first) - truth).max() < 2 / 32768
    assert second.data == same.data
    keeping = [{"kind": "audio_resample", "sample_rate": 22_050, "mono": False, "format": "wav"}]
    kept = build(tmp_path, [record(audio(stereo, 22_050)), record(same)], keeping, name="kept")
    assert kept.samples[0].media[0].data == audio(stereo, 22_050).data
    assert kept.samples[1].media[0].sample_rate == 22_050
