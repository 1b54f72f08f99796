"""FLAC by libsndfile against FFmpeg: the same samples, the same verdict on damage, whoever reads which part."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.decode import audio, flac
from mmdata.decode.audio_pyav import Track
from mmdata.errors import DataError

RATE = 16_000


def written(channels: int, bits: int, samples: int = 150_000) -> bytes:
    wave = np.random.default_rng(channels).normal(0, 0.2, (samples, channels)).clip(-1, 1)
    out = io.BytesIO()
    soundfile.write(out, wave, RATE, format="FLAC", subtype={8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}[bits])
    return out.getvalue()


STEREO = written(2, 16)


def by_ffmpeg(data: bytes, *, mono: bool, first: int = 0, last: int | None = None) -> np.ndarray:
    with Track(data, "flac") as track:
        return np.concatenate(list(track.blocks(mono=mono, first=first, last=last)), axis=-1)


@pytest.mark.parametrize("bits", [8, 16, 24])
@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize("mono", [True, False])
def test_samples_are_those_of_ffmpeg(channels: int, bits: int, mono: bool) -> None:
    data = written(channels, bits)
    file = flac.open_flac(data)
    assert file is not None
    assert (file.sample_rate, file.channels, file.samples) == (RATE, channels, 150_000)
    ours = np.concatenate(list(file.blocks(mono=mono)), axis=-1)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, by_ffmpeg(data, mono=mono))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 160_000), st.integers(0, 160_000))
def test_any_part(first: int, last: int) -> None:
    ours = audio.decode(STEREO, sample_rate=None, start=first, stop=last)
    np.testing.assert_array_equal(ours.numpy(), audio.decode(STEREO, sample_rate=None)[first : max(first, last)])


def outcome(read: Callable[[], np.ndarray]) -> np.ndarray | str:
    try:
        return read()
    except DataError as error:
        return error.reason


def check_verdict(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = outcome(lambda: audio.decode(data, sample_rate=None, mono=False, max_seconds=60.0).numpy())
    with monkeypatch.context() as patch:
        patch.setattr(flac, "open_flac", lambda data: None)
        theirs = outcome(lambda: audio.decode(data, sample_rate=None, mono=False, max_seconds=60.0).numpy())
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours is theirs or ours == theirs
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("at", [*range(4, 46), 5_000, 100_000, 200_000, 300_000, 400_000])
def test_a_changed_byte_has_the_verdict_of_ffmpeg(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for mask in (0x01, 0x80, 0xFF):
        damaged = bytearray(STEREO)
        damaged[at] ^= mask
        check_verdict(bytes(damaged), monkeypatch)


@pytest.mark.parametrize("size", [30, 41, 42, 4_000, 200_000, 400_000, len(STEREO) - 1])
def test_a_cut_has_the_verdict_of_ffmpeg(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_verdict(STEREO[:size], monkeypatch)


def test_ffmpeg_reads_on_where_libsndfile_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the block after the one that was read, to the same end."""
    read = soundfile.SoundFile.read
    calls = []

    def fails(file: soundfile.SoundFile, *args: object, **options: object) -> np.ndarray:
        calls.append(args)
        if len(calls) == 2:
            raise soundfile.SoundFileRuntimeError("for this test")
        return read(file, *args, **options)

    monkeypatch.setattr(flac, "_BLOCK", 1 << 16)
    monkeypatch.setattr(soundfile.SoundFile, "read", fails)
    ours = audio.decode(STEREO, sample_rate=None)
    assert len(calls) == 2
    np.testing.assert_array_equal(ours.numpy(), by_ffmpeg(STEREO, mono=True))


@pytest.mark.parametrize("data", [STEREO, STEREO + b"TAG" + bytes(125), written(1, 24), written(6, 8, 5_000)])
def test_whole_files_are_read_by_libsndfile(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flac.Flac, "_track", lambda self: pytest.fail("left to FFmpeg"))
    assert flac.open_flac(data) is not None
    assert len(audio.decode(data, sample_rate=None)) in (150_000, 5_000)


def test_headers_that_do_not_say_all_are_left_to_ffmpeg() -> None:
    unknown = bytearray(STEREO)
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)  # no number of samples
    assert flac.open_flac(bytes(unknown)) is None
    assert len(audio.decode(bytes(unknown), sample_rate=None)) == 150_000
