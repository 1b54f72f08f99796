"""Tempo, beats, pitch classes and key of music, through librosa (the extra `music`)."""

from __future__ import annotations

import fcntl
import functools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdata.errors import SpecError

if TYPE_CHECKING:
    import numpy.typing as npt

NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# How well each pitch class fits a key, from its tonic on: probe-tone ratings of Krumhansl and Kessler (1982).
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beats:
    """`tempo` in beats a minute (0 where there is none), `times` of the beats in seconds."""

    tempo: float
    times: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The likeliest key, and how far its fit (a correlation, -1..1) is ahead of the next."""

    tonic: str
    mode: str
    margin: float


def beats(wave: npt.NDArray[np.float32], *, sample_rate: int, hop_length: int = 512) -> Beats:
    """Tempo and beats of a mono waveform float32 [samples], by dynamic programming over onsets (Ellis 2007).

    Raises SpecError where librosa is not installed.
    """
    librosa = _librosa()
    tempo, found = librosa.beat.beat_track(y=wave, sr=sample_rate, hop_length=hop_length, units="time")
    return Beats(tempo=float(np.atleast_1d(tempo)[0]), times=tuple(float(time) for time in found))


def chroma(wave: npt.NDArray[np.float32], *, sample_rate: int, hop_length: int = 512) -> npt.NDArray[np.float32]:
    """Strength of the twelve pitch classes, C first, each frame's strongest 1: float32 [12, frames].

    From a constant-Q transform. Raises SpecError where librosa is not installed.
    """
    result: npt.NDArray[np.float32] = _librosa().feature.chroma_cqt(y=wave, sr=sample_rate, hop_length=hop_length)
    return result.astype(np.float32)


def key(wave: npt.NDArray[np.float32], *, sample_rate: int) -> Key | None:
    """The key whose profile correlates best with the mean chroma (Krumhansl and Schmuckler), None where all pitch
    classes are alike. Raises SpecError where librosa is not installed."""
    mean = chroma(wave, sample_rate=sample_rate).mean(axis=1)
    if not float(mean.std()) > 0:
        return None
    fits = [
        (float(np.corrcoef(mean, np.roll(profile, tonic))[0, 1]), NAMES[tonic], mode)
        for mode, profile in (("major", _MAJOR), ("minor", _MINOR))
        for tonic in range(12)
    ]
    (best, tonic, mode), (second, _, _) = sorted(fits, reverse=True)[:2]
    return Key(tonic=tonic, mode=mode, margin=best - second)


@functools.cache
def _librosa() -> Any:
    """librosa, its functions compiled by one process of this machine at a time.

    Two that compile for the cache of numba at once leave files there that do not fit together, and whoever loads them
    then dies of a segmentation fault (numba issue 10128). So everything used here is compiled, or loaded, under a lock.
    """
    with open(Path(tempfile.gettempdir()) / f"mmdata-music-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            import librosa
        except ImportError:
            raise SpecError("tempo, beats, chroma and key need librosa: pip install 'mmdata[music]'") from None
        rate = 22_050
        wave = (0.1 * np.sin(np.arange(4 * rate) * 0.1) * (np.arange(4 * rate) % (rate // 2) < 2000)).astype(np.float32)
        librosa.beat.beat_track(y=wave, sr=rate, units="time")
        librosa.feature.chroma_cqt(y=wave, sr=rate)
    return librosa
