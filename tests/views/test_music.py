"""Music: tempo, chroma and key of synthetic pieces whose tempo and key are known."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdata.errors import SpecError
from mmdata.views import music

RATE = 22_050


def chord(*semitones: int, seconds: float) -> np.ndarray:
    """Tones above middle C, with harmonics."""
    time = np.arange(int(seconds * RATE)) / RATE
    tones = [261.63 * 2 ** (tone / 12) for tone in semitones]
    wave = sum(np.sin(2 * np.pi * k * tone * time) / k**2 for tone in tones for k in (1, 2, 3))
    return (0.1 * wave * np.exp(-time)).astype(np.float32)


def cadence(tonic: int, minor: bool) -> np.ndarray:
    third = 3 if minor else 4
    degrees = [(0, third, 7), (5, 5 + third, 12), (7, 11, 14), (0, third, 7, 12)]
    return np.concatenate([chord(*(tonic + step for step in degree), seconds=1.0) for degree in degrees])


def test_key_of_cadences() -> None:
    pytest.importorskip("librosa")
    for tonic, minor, expected in ((0, False, ("C", "major")), (7, False, ("G", "major")), (9, True, ("A", "minor"))):
        key = music.key(cadence(tonic, minor), sample_rate=RATE)
        assert key is not None
        assert (key.tonic, key.mode) == expected
        assert key.margin > 0


def test_chroma_of_one_tone() -> None:
    pytest.importorskip("librosa")
    chroma = music.chroma(chord(4, seconds=2.0), sample_rate=RATE)
    assert chroma.shape[0] == 12
    assert music.NAMES[int(chroma.mean(axis=1).argmax())] == "E"


@pytest.mark.parametrize("tempo", [100, 120])
def test_tempo_of_clicks(tempo: int) -> None:
    pytest.importorskip("librosa")
    wave = np.zeros(10 * RATE, np.float32)
    click = np.exp(-np.arange(800) / 80) * np.sin(np.arange(800) * 0.5)
    period = int(60 * RATE / tempo)
    for at in range(0, len(wave) - 800, period):
        wave[at : at + 800] += click.astype(np.float32)
    beats = music.beats(wave, sample_rate=RATE)
    assert abs(beats.tempo / tempo - 1) < 0.04
    assert abs(np.median(np.diff(beats.times)) - 60 / tempo) < 0.03


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(3))
def test_processes_that_compile_at_once_do_not_crash(tmp_path: Path, attempt: int) -> None:
    """Three with an empty cache of numba: without the lock about one attempt in three dies of a segmentation fault."""
    pytest.importorskip("librosa")
    code = "from tests.views.test_music import *; test_key_of_cadences(); test_tempo_of_clicks(100)"
    told: dict[str, Any] = {"cwd": Path(__file__).parents[2], "env": {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}}
    processes = [subprocess.Popen([sys.executable, "-c", code], **told) for _ in range(3)]
    assert [process.wait(300) for process in processes] == [0, 0, 0]


def test_without_librosa_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".")[0] == "librosa":
            raise ImportError(name)
        return genuine(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    music._librosa.cache_clear()
    with pytest.raises(SpecError, match=r"mmdata\[music\]"):
        music.beats(np.zeros(100, np.float32), sample_rate=RATE)
