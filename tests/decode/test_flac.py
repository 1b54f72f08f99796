"""FLAC by the kernel and by libsndfile against FFmpeg: the same samples, the same verdict on damage, whoever reads."""

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
from mmdata.native import flac as native
from mmdata.native.library import kernels

RATE = 16_000


def written(channels: int, bits: int, samples: int = 150_000) -> bytes:
    wave = np.random.default_rng(channels).normal(0, 0.2, (samples, channels)).clip(-1, 1)
    out = io.BytesIO()
    soundfile.write(out, wave, RATE, format="FLAC", subtype={8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}[bits])
    return out.getvalue()


STEREO = written(2, 16)
KERNEL = pytest.mark.skipif(kernels() is None, reason="the kernels were not compiled")


@pytest.fixture(params=[True, False], ids=["kernel", "libsndfile"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(native, "kernels", lambda: None)
    elif kernels() is None:
        pytest.skip("the kernels were not compiled")


def by_ffmpeg(data: bytes, *, mono: bool, first: int = 0, last: int | None = None) -> np.ndarray:
    with Track(data, "flac") as track:
        return np.concatenate(list(track.blocks(mono=mono, first=first, last=last)), axis=-1)


@pytest.mark.parametrize("bits", [8, 16, 24])
@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize("mono", [True, False])
@pytest.mark.usefixtures("reader")
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
    with monkeypatch.context() as patch:
        ours = verdict(data)
        patch.setattr(native, "kernels", lambda: None)
        check_same(ours, verdict(data))
        patch.setattr(flac, "open_flac", lambda data: None)
        check_same(ours, verdict(data))


def verdict(data: bytes) -> np.ndarray | str:
    return outcome(lambda: audio.decode(data, sample_rate=None, mono=False, max_seconds=60.0).numpy())


def check_same(ours: np.ndarray | str, theirs: np.ndarray | str) -> None:
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours is theirs or ours == theirs
    else:
        np.testing.assert_array_equal(ours, theirs)


def with_metadata(data: bytes, blocks: list[tuple[int, bytes]]) -> bytes:
    """Behind STREAMINFO, instead of what was there."""
    told = [(0, data[8:42]), *blocks]
    packed = [
        bytes([kind | 0x80 * (at == len(told) - 1)]) + len(block).to_bytes(3, "big") + block
        for at, (kind, block) in enumerate(told)
    ]
    return b"fLaC" + b"".join(packed) + data[flac._first_frame(data)[0] :]


def counted(*texts: bytes, order: str = "big") -> bytes:
    return b"".join(len(text).to_bytes(4, order) + text for text in texts)  # type: ignore[arg-type]


PICTURE = bytes(4) + counted(b"image/png", b"a cover") + bytes(16) + counted(b"\x89PNG\r\n\x1a\n" + bytes(20))
COMMENT = counted(b"who wrote it", order="little") + b"\1\0\0\0" + counted(b"TITLE=a", order="little")
METADATA = {
    "picture": [(6, PICTURE)],
    "comment": [(4, COMMENT), (1, bytes(9))],
    "others": [(2, b"appl and more"), (3, bytes(16) + b"\2\x58"), (77, b"of the future")],
    "cue sheet": [(5, bytes(396) + b"\1" + bytes(8) + b"\xaa" + bytes(27))],
    "header again": [(0, STEREO[8:42])],
    "no block": [(127, b"123")],
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_have_the_same_verdict_without_the_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_metadata(written(1, 16, 300), METADATA[name])
    begin, plain = flac._first_frame(data)
    assert plain == (name in ("picture", "comment", "others"))
    changed = [(at, mask) for at in range(42, begin) for mask in (0x01, 0x80)]
    for at, mask in [(41, 0), *changed[:: 1 + len(changed) // 200]]:
        damaged = bytearray(data)
        damaged[at] ^= mask
        with monkeypatch.context() as patch:
            ours = verdict(bytes(damaged))
            patch.setattr(native, "kernels", lambda: None)
            check_same(ours, verdict(bytes(damaged)))


@pytest.mark.parametrize("bits", [8, 16, 24])
def test_damage_anywhere_has_the_same_verdict_without_the_kernel(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(2, bits, 130)
    random = np.random.default_rng(bits)
    damaged = [data[:size] for size in random.integers(0, len(data), 60)]
    for at in random.integers(4, len(data), 120):
        changed = bytearray(data)
        changed[at] ^= 1 << random.integers(8)
        damaged.append(bytes(changed))
    for one in damaged:
        with monkeypatch.context() as patch:
            ours = verdict(one)
            patch.setattr(native, "kernels", lambda: None)
            check_same(ours, verdict(one))


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

    monkeypatch.setattr(native, "kernels", lambda: None)
    monkeypatch.setattr(flac, "_BLOCK", 1 << 16)
    monkeypatch.setattr(soundfile.SoundFile, "read", fails)
    ours = audio.decode(STEREO, sample_rate=None)
    assert len(calls) == 2
    np.testing.assert_array_equal(ours.numpy(), by_ffmpeg(STEREO, mono=True))


@KERNEL
@pytest.mark.parametrize("mono", [True, False])
@pytest.mark.parametrize("first", [0, 70_000])
def test_libsndfile_reads_on_where_the_kernel_stops(first: int, mono: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    read = native.Frames.read
    calls = []

    def stops(frames: native.Frames, *args: int, **options: bool) -> np.ndarray | None:
        calls.append(args)
        return None if len(calls) == 2 else read(frames, *args, **options)

    monkeypatch.setattr(flac, "_BLOCK", 1 << 15)
    monkeypatch.setattr(native.Frames, "read", stops)
    monkeypatch.setattr(flac.Flac, "_track", lambda self: pytest.fail("left to FFmpeg"))
    ours = audio.decode(STEREO, sample_rate=None, mono=mono, start=first)
    assert calls == [(first, 1 << 15), (first + (1 << 15), 1 << 15)]
    np.testing.assert_array_equal(ours.numpy(), by_ffmpeg(STEREO, mono=mono, first=first))


@KERNEL
def test_the_kernel_does_not_read_a_file_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.Frames, "read", lambda *args, **options: pytest.fail("read"))
    part = audio.decode(STEREO, sample_rate=None, start=140_000)
    np.testing.assert_array_equal(part.numpy(), by_ffmpeg(STEREO, mono=True, first=140_000))


@KERNEL
@pytest.mark.parametrize("data", [STEREO, STEREO + b"TAG" + bytes(125), written(1, 24), written(6, 8, 5_000)])
def test_whole_files_are_read_by_the_kernel(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flac.Flac, "_by_libsndfile", lambda *args: pytest.fail("left to libsndfile"))
    assert len(audio.decode(data, sample_rate=None)) in (150_000, 5_000)


@pytest.mark.parametrize("data", [STEREO, STEREO + b"TAG" + bytes(125), written(1, 24), written(6, 8, 5_000)])
def test_whole_files_are_read_by_libsndfile(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "kernels", lambda: None)
    monkeypatch.setattr(flac.Flac, "_track", lambda self: pytest.fail("left to FFmpeg"))
    assert flac.open_flac(data) is not None
    assert len(audio.decode(data, sample_rate=None)) in (150_000, 5_000)


def test_headers_that_do_not_say_all_are_left_to_ffmpeg() -> None:
    unknown = bytearray(STEREO)
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)  # no number of samples
    assert flac.open_flac(bytes(unknown)) is None
    assert len(audio.decode(bytes(unknown), sample_rate=None)) == 150_000
