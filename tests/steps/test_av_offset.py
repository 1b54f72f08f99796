"""Flashes and clicks at irregular times, so many milliseconds apart."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mmdata.steps._films import with_facts
from mmdata.steps.av_offset import AvOffset
from mmdata.types import Media
from tests.steps.footage import film
from tests.steps.given import build, record

FLASHES = (0.4, 0.72, 1.4, 1.64, 2.4, 3.04, 3.2)


def flashing(late: float, begins: float = 0.0) -> Media:
    """Four seconds at 25 frames a second; each flash is one white frame, each click comes `late` seconds after it. The
    sound track begins at `begins` seconds."""
    out = io.BytesIO()
    random = np.random.default_rng(0)
    with av.open(out, "w", format="matroska") as file:
        track: Any = file.add_stream("mpeg4", rate=25)
        track.height = track.width = 64
        voice: Any = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for at in range(100):
            bright = 230 if any(round(flash * 25) == at for flash in FLASHES) else 20
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), bright, np.uint8), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 25)
            file.mux(track.encode(frame))
        file.mux(track.encode())
        wave = 0.001 * random.standard_normal(64_000)
        for flash in FLASHES:
            start = round((flash + late) * 16_000)
            wave[start : start + 800] += 0.5 * random.standard_normal(800).clip(-1.5, 1.5)
        pcm = (wave.clip(-1, 1) * 32767).astype(np.int16)
        skipped = round(begins * 16_000)
        sound = av.AudioFrame.from_ndarray(pcm[None, skipped:], format="s16", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = 16_000, skipped, Fraction(1, 16_000)
        file.mux(voice.encode(sound))
        file.mux(voice.encode())
    return Media(kind="video", data=out.getvalue())


@pytest.mark.parametrize("late", [0.0, 0.2, -0.16, 0.6])
def test_known_offsets(late: float) -> None:
    offset, confidence = AvOffset().estimate(with_facts(flashing(late)))
    assert offset == pytest.approx(late, abs=0.05)
    assert confidence > 5


def test_sound_that_begins_later_is_not_early() -> None:
    offset, confidence = AvOffset().estimate(with_facts(flashing(0.2, begins=1.0)))
    assert offset == pytest.approx(0.2, abs=0.05)
    assert confidence > 4


def test_a_build(tmp_path: Path) -> None:
    records = [record(flashing(0.0)), record(flashing(0.4)), record(film(("cat", 10, 1))), record("none")]
    built = build(tmp_path, records, [{"kind": "av_offset", "max": 0.2}])
    assert built.reasons == ["", "av_offset", "", ""]
    assert built.details[1].startswith("+0.4")
    assert built.column("av_offset") == [pytest.approx(0.0, abs=0.05), None, None]
