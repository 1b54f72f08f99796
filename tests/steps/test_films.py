"""Frames by time, and clips that hold what they should, the same bytes every time."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from mmdata.decode.video import decode_frames
from mmdata.steps._films import clip, every, heard, pictures, times, with_facts
from mmdata.steps._sounds import waveform
from mmdata.types import Media
from tests.decode.clips import BEEPING, beeping, noise
from tests.decode.clips import clip as encoded
from tests.steps.footage import film


def test_every() -> None:
    video = film(("cat", 30, 1))
    assert every(video, 20) == list(range(30))
    assert every(video, 100) == list(range(30))
    assert every(video, 5) == [0, 4, 8, 12, 16, 20, 24, 28]
    late = with_facts(film(("cat", 30, 1)))
    assert times(late)[:3].tolist() == pytest.approx([0, 0.05, 0.1])


def test_a_clip() -> None:
    video = film(("cat", 20, 2), ("rocket", 20, 2), sound=True)
    made = clip(video, 8, 24)
    assert clip(video, 8, 24).data == made.data
    assert (made.format, made.frames, made.height, made.width, made.channels) == ("mp4", 16, 96, 128, 1)
    assert made.seconds == pytest.approx(0.8, abs=0.001)
    before = decode_frames(video, range(8, 24)).pixels.float()
    after = decode_frames(made, range(16)).pixels.float()
    psnr = 10 * np.log10(255**2 / float((before - after).square().mean()))
    assert psnr > 32
    whole, piece = waveform(with_facts(video)), waveform(made)
    assert len(piece) == pytest.approx(0.8 * 16_000, abs=2200)
    assert np.sqrt((piece[2000:8000] ** 2).mean()) == pytest.approx(np.sqrt((whole[8000:14_000] ** 2).mean()), rel=0.1)


@pytest.mark.parametrize(("format", "codec", "pictures", "sound"), BEEPING)
def test_a_clip_is_heard_when_it_is_seen(format: str, codec: str, pictures: float, sound: float) -> None:
    video = with_facts(Media(kind="video", data=beeping(format, codec, pictures=pictures, sound=sound)))
    begin = max(2.0, sound - pictures)  # of the tone
    rate = 48_000
    made = waveform(clip(video, 20, 30), sample_rate=rate)
    assert (np.abs(made[round((begin - 1.95) * rate) : round(0.95 * rate)]) > 0.05).mean() > 0.9
    assert (np.abs(waveform(clip(video, 0, 15), sample_rate=rate)) < 0.05).all()
    whole = np.abs(heard(video, sample_rate=rate)) > 0.05
    assert np.flatnonzero(whole)[[0, -1]] / rate == pytest.approx([begin, 3], abs=0.03)


def test_frames_of_one_time_stay_one_by_one() -> None:
    times_of_two = tuple(at // 2 * 100 for at in range(12))
    double = encoded(frames=12, times=times_of_two, base=Fraction(1, 1000), format="matroska", between=0)
    video = with_facts(Media(kind="video", data=double))
    made = clip(video, 2, 10)
    assert times(made) == pytest.approx(times(video)[2:10] - 0.1, abs=1e-4)


@pytest.mark.parametrize("size", [(144, 176), (240, 320)])
def test_the_same_bytes_whatever_lay_in_memory(size: tuple[int, int]) -> None:
    video = with_facts(Media(kind="video", data=noise(*size)))
    made = set()
    for at in range(6):
        _ = [np.random.default_rng(at).bytes(10_000 * (at + size)) for size in range(20)]
        made.add(clip(video, 2, 22).data)
    assert len(made) == 1


def test_smaller_rotated_and_fewer_frames() -> None:
    turned = with_facts(Media(kind="video", data=encoded(frames=12, rotate=90)))
    made = clip(turned, 0, 12, frames=[0, 4, 8], longest=64)
    assert (made.frames, made.height, made.width) == (3, 64, 48)
    assert times(made).tolist() == pytest.approx([times(turned)[at] for at in (0, 4, 8)], abs=1e-3)
    assert len(list(pictures(turned, [1, 3]))) == 2
