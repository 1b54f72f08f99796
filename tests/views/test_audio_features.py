"""Features of sound against librosa, and pitch against tones of known frequency."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import SpecError
from mmdata.views import audio_features as features

librosa = pytest.importorskip("librosa")
SIZES = [(400, 160), (1024, 256), (600, 100)]


def speech(samples: int = 24_000) -> np.ndarray:
    """Harmonics of a gliding voice, noise, and a second of silence."""
    random = np.random.default_rng(3)
    time = np.arange(samples) / 16_000
    voice = sum(np.sin(2 * np.pi * k * (110 * time + 20 * time**2)) / k for k in range(1, 9))
    wave = 0.2 * voice + 0.02 * random.standard_normal(samples)
    wave[-6_000:] = 0
    return wave.astype(np.float32)


@pytest.mark.parametrize(("length", "hop"), SIZES)
def test_zero_crossings_and_energy(length: int, hop: int) -> None:
    wave = speech()
    ours = features.zero_crossing_rate(wave, frame_length=length, hop_length=hop).numpy()
    theirs = librosa.feature.zero_crossing_rate(wave, frame_length=length, hop_length=hop)[0]
    inside = slice(length // hop + 1, -length // hop - 1)  # librosa repeats the clip's edge, we have silence there
    assert ours.shape == theirs.shape
    assert np.allclose(ours[inside], theirs[inside], atol=1e-7)
    energy = features.short_time_energy(wave, frame_length=length, hop_length=hop).numpy()
    rms = librosa.feature.rms(y=wave, frame_length=length, hop_length=hop, pad_mode="constant")[0]
    assert np.allclose(energy, rms**2 * length, rtol=1e-4, atol=1e-6)
    contour = features.energy_contour(wave, frame_length=length, hop_length=hop).numpy()
    assert np.allclose(contour, 10 * np.log10(np.maximum(rms**2, 1e-10)), atol=1e-3)


@pytest.mark.parametrize(("length", "hop"), SIZES[:2])
def test_shape_of_the_spectrum(length: int, hop: int) -> None:
    wave = speech()
    options = {"n_fft": length, "hop_length": hop}
    assert np.allclose(
        features.spectral_centroid(wave, **options).numpy(),
        librosa.feature.spectral_centroid(y=wave, sr=16_000, **options)[0],
        rtol=1e-4,
        atol=0.05,
    )
    ours = features.spectral_rolloff(wave, share=0.9, **options).numpy()
    theirs = librosa.feature.spectral_rolloff(y=wave, sr=16_000, roll_percent=0.9, **options)[0]
    assert np.mean(ours == theirs) > 0.99  # a sum that meets the share exactly may round either way
    assert np.abs(ours - theirs).max() <= 16_000 / length


@pytest.mark.parametrize(("length", "hop"), SIZES[:2])
def test_cepstrum(length: int, hop: int) -> None:
    wave = speech()
    ours = features.mfcc(wave, n_fft=length, hop_length=hop, n_mels=40).numpy()
    theirs = librosa.feature.mfcc(y=wave, sr=16_000, n_mfcc=13, n_mels=40, n_fft=length, hop_length=hop)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-2  # decibels
    assert ours.shape[0] == 13


def test_multi_scale_windows_are_mel_spectrograms_on_one_clock() -> None:
    wave = speech()
    ours = features.multi_scale(wave, windows=(400, 800, 1600), n_mels=40).numpy()
    assert ours.shape == (3, 40, 151)
    for scale, window in zip(ours, (400, 800, 1600), strict=True):
        power = librosa.feature.melspectrogram(y=wave, sr=16_000, n_fft=window, hop_length=160, n_mels=40)
        assert np.abs(scale - 10 * np.log10(np.maximum(power, 1e-10))).max() < 1e-2


@settings(deadline=None, max_examples=30)
@given(st.floats(70, 480), st.floats(0.01, 0.9), st.integers(0, 100))
def test_pitch_of_a_tone(frequency: float, size: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    time = np.arange(16_000) / 16_000
    wave = size * sum(np.sin(2 * np.pi * k * frequency * time + random.uniform(0, 6)) / k for k in range(1, 5))
    contour = features.f0_contour(wave.astype(np.float32)).numpy()
    inside = contour[5:-5]
    assert np.all(np.abs(inside / frequency - 1) < 0.005)


def test_pitch_follows_a_glide_as_librosas_does() -> None:
    wave = speech()[:18_000]
    ours = features.f0_contour(wave, threshold=0.2).numpy()
    theirs = librosa.yin(wave, fmin=65, fmax=500, sr=16_000, frame_length=1024, hop_length=160, trough_threshold=0.2)
    truth = 110 + 40 * np.arange(len(ours)) / 100
    inside = slice(6, -6)
    assert np.abs(ours[inside] / truth[inside] - 1).max() < 0.01
    assert np.median(np.abs(ours[inside] / theirs[inside] - 1)) < 0.005


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    assert float((features.f0_contour(noise) > 0).float().mean()) < 0.02
    silence = np.zeros(8_000, np.float32)
    for feature in (
        features.f0_contour,
        features.zero_crossing_rate,
        features.spectral_centroid,
        features.spectral_rolloff,
        features.short_time_energy,
    ):
        assert not feature(silence).any()


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 401])
def test_frames_line_up_for_any_length(samples: int) -> None:
    wave = speech()[:samples]
    for feature in (
        features.f0_contour,
        features.zero_crossing_rate,
        features.spectral_centroid,
        features.mfcc,
        features.spectral_rolloff,
        features.energy_contour,
        features.multi_scale,
    ):
        result = feature(wave)
        assert result.shape[-1] == samples // 160 + 1
        assert bool(torch.isfinite(result).all())


def test_wrong_parameters() -> None:
    wave = speech(1_000)
    for call in (
        lambda: features.frames(wave, frame_length=0),
        lambda: features.frames(np.zeros((2, 10), np.float32)),
        lambda: features.spectral_rolloff(wave, share=1.5),
        lambda: features.mfcc(wave, n_mfcc=200),
        lambda: features.f0_contour(wave, lowest=10),
        lambda: features.f0_contour(wave, lowest=500, highest=100),
    ):
        with pytest.raises(SpecError):
            call()
