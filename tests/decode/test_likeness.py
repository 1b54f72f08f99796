"""Small pictures of videos and sounds."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mmdata.decode import likeness
from mmdata.decode.work import Work
from mmdata.types import Media

from .clips import clip, truth
from .sounds import by_soundfile, chirp


def test_a_video_looks_like_its_first_frame() -> None:
    data = clip(frames=6)
    _, _, frames = truth(data)
    media = Media(kind="video", data=data)
    found = likeness.of(data, media, side=96, max_pixels=1 << 20)
    assert found is not None
    assert np.array_equal(found, frames[0])
    small = Work().thumbnail(media)
    assert small is not None
    assert max(Image.open(io.BytesIO(small)).size) == 96
    assert likeness.of(data, media, side=96, max_pixels=16) is None, "too many pixels"


def test_a_sound_is_drawn_as_loud_as_it_is() -> None:
    wave = np.zeros((1600, 1), np.float32)
    wave[800:, 0] = np.where(np.arange(800) % 2, 0.5, -0.5)
    data = by_soundfile(wave, 16_000, "WAV", "PCM_16")
    drawn = likeness.of(data, Media(kind="audio", data=data), side=32, max_pixels=1)
    assert drawn is not None
    assert drawn.shape == (16, 32, 3)
    inked = (drawn == likeness.INK).all(-1).sum(0)
    assert inked[:16].max() <= 2, "silence is a line"
    assert inked[16:].min() == 16, "and the loudest fills the picture"


def test_silence_a_single_sample_and_damage() -> None:
    for count in (1, 7):
        data = by_soundfile(np.zeros((count, 2), np.float32), 8000, "WAV", "PCM_16")
        assert Work().thumbnail(Media(kind="audio", data=data)) is not None
    for kind, data in (("audio", b"RIFFxxxxWAVEjunk"), ("video", clip(frames=3)[:300]), ("video", b""), ("audio", b"")):
        assert Work().thumbnail(Media(kind=kind, data=data)) is None  # type: ignore[arg-type]


def test_loud_sounds_are_small_files() -> None:
    data = by_soundfile(chirp(2.0), 16_000, "FLAC", "PCM_16")
    small = Work().thumbnail(Media(kind="audio", data=data))
    assert small is not None
    assert Image.open(io.BytesIO(small)).size == (96, 48)
    assert len(small) < 4000
