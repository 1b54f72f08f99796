"""FLAC by the kernel beside libsndfile and FFmpeg: the same samples of whatever encoders write and of what they do not,
nothing of what is damaged, and no byte beside the file read or beside the samples written."""

from __future__ import annotations

import ctypes
import io
import mmap
import random
from collections.abc import Iterator
from itertools import pairwise

import av
import hypothesis.strategies as st
import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings

from mmdata import memory
from mmdata.decode import flac as decoder
from mmdata.decode.audio_pyav import Track
from mmdata.native import flac
from mmdata.native.library import kernels
from tests.native import flacs

pytestmark = [
    pytest.mark.skipif(kernels() is None, reason="the kernels were not compiled"),
    pytest.mark.usefixtures("way"),
]
KINDS = ("noise", "sine", "silence", "square", "wasted", "steps")


@pytest.fixture(scope="module", params=[0, 1], ids=["portable", "fastest"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """What every processor can do, and the most that this one can."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.param:
            patch.setattr(flac, "level", lambda: 0)
        yield


def frames(data: bytes) -> flac.Frames:
    """Of a file whose header is right."""
    packed = int.from_bytes(data[18:26], "big")
    byte, _ = decoder._first_frame(data)
    return flac.Frames(
        data,
        rate=packed >> 44,
        channels=(packed >> 41 & 7) + 1,
        bits=(packed >> 36 & 31) + 1,
        blocks=(int.from_bytes(data[8:10], "big"), int.from_bytes(data[10:12], "big")),
        samples=packed & (1 << 36) - 1,
        byte=byte,
    )


def read(data: bytes, *, mono: bool = False) -> np.ndarray | None:
    opened = frames(data)
    return opened.read(0, opened._stream.samples, mono=mono)


def drawn(kind: str, samples: int, channels: int, bits: int, seed: int) -> np.ndarray:
    """int64 [channels, samples], of full scale but for noise."""
    draw = np.random.default_rng(seed)
    full = (1 << bits - 1) - 1
    time = np.arange(samples) * draw.uniform(0.001, 1.0, (channels, 1))
    wave = {
        "noise": lambda: draw.normal(0, draw.choice([0.0003, 0.02, 0.5]), (channels, samples)),
        "sine": lambda: np.sin(time),
        "silence": lambda: np.zeros((channels, samples)),
        "square": lambda: np.sign(np.sin(time)) * 1.1,
        "wasted": lambda: draw.normal(0, 0.2, (channels, samples)),
        "steps": lambda: np.repeat(draw.normal(0, 0.3, (channels, 1 + samples // 500)), 500, axis=1)[:, :samples],
    }[kind]()
    values = np.rint(wave * full).clip(-full - 1, full).astype(np.int64)
    return values >> 4 << 4 if kind == "wasted" else values


def by_libflac(values: np.ndarray, bits: int, rate: int, level: float) -> bytes:
    out = io.BytesIO()
    subtype = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}[bits]
    shifted = np.ascontiguousarray((values << 32 - bits).astype(np.int32).T)
    soundfile.write(out, shifted, rate, format="FLAC", subtype=subtype, compression_level=level)
    return out.getvalue()


def by_ffmpeg(values: np.ndarray, bits: int, rate: int, level: int, size: int) -> bytes:
    out = io.BytesIO()
    format, kind, shift = ("s16", np.int16, 0) if bits == 16 else ("s32", np.int32, 8)
    layout = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")[len(values) - 1]
    with av.open(out, "w", format="flac") as file:
        stream = file.add_stream("flac", rate=rate)
        stream.layout, stream.format = layout, format
        stream.codec_context.options = {"compression_level": str(level), "frame_size": str(size)}
        packed = np.ascontiguousarray((values << shift).astype(kind).T).reshape(1, -1)
        for at in range(0, values.shape[1], size):
            piece = np.ascontiguousarray(packed[:, at * len(values) : (at + size) * len(values)])
            frame = av.AudioFrame.from_ndarray(piece, format=format, layout=layout)
            frame.sample_rate, frame.pts = rate, at
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def theirs(data: bytes) -> np.ndarray:
    """float32 [channels, samples] by libsndfile, which looks for no place on the way."""
    with decoder._forward()(io.BytesIO(data)) as file:
        found: np.ndarray = file.read(file.frames, dtype="float32", always_2d=True).T
        return found


def check(data: bytes, values: np.ndarray, bits: int) -> None:
    """The samples that were encoded, those of libsndfile, and the mean that `decode` makes of them."""
    found = read(data)
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values / (1 << bits - 1))
    np.testing.assert_array_equal(found, theirs(data))
    mean = decoder.Flac(data, 1, len(values), values.shape[1])._floats(found.T, True)
    np.testing.assert_array_equal(read(data, mono=True), mean)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    samples=st.one_of(st.sampled_from([1, 2, 15, 16, 17, 4095, 4096, 4097]), st.integers(1, 9_000)),
    channels=st.integers(1, 8),
    bits=st.sampled_from([8, 16, 24]),
    rate=st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 11_025, 12_345, 192_000, 655_350]),
    level=st.sampled_from([at / 8 for at in range(9)]),
    seed=st.integers(0, 99),
)
@example(kind="noise", samples=300_000, channels=1, bits=16, rate=16_000, level=0.625, seed=0)
@example(kind="sine", samples=70_000, channels=2, bits=24, rate=96_000, level=1.0, seed=0)
def test_what_libflac_writes(kind, samples, channels, bits, rate, level, seed) -> None:  # type: ignore[no-untyped-def]
    values = drawn(kind, samples, channels, bits, seed)
    check(by_libflac(values, bits, rate, level), values, bits)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    blocks=st.integers(1, 3),
    left=st.sampled_from([0, 65, 191]),  # fewer are foretold by all that is there, which libFLAC does not read
    channels=st.integers(1, 8),
    bits=st.sampled_from([16, 24]),
    level=st.integers(0, 12),
    size=st.sampled_from([1000, 4096, 4608, 16_384]),
    seed=st.integers(0, 99),
)
def test_what_ffmpeg_writes(kind, blocks, left, channels, bits, level, size, seed) -> None:  # type: ignore[no-untyped-def]
    values = drawn(kind, blocks * size + left, channels, bits, seed)
    data = by_ffmpeg(values, bits, 44_100, level, size)
    if level < 10 or read(data) is not None:  # with orders of more than 12 a first partition may be empty
        check(data, values, bits)


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    samples=st.integers(1, 700),
    channels=st.integers(1, 3),
    bits=st.sampled_from([8, 12, 16, 20, 24]),
    rate=st.sampled_from([16_000, 44_100, 12_345]),
    seed=st.integers(0, 9_999),
)
def test_what_no_encoder_writes(kind, samples, channels, bits, rate, seed) -> None:  # type: ignore[no-untyped-def]
    """Orders up to 32, escaped partitions, wide parameters, blocks of any size."""
    values = drawn(kind, samples, channels, bits, seed)
    data = flacs.written(values.tolist(), rate, bits, random.Random(seed))
    if bits in (8, 16, 24):
        check(data, values, bits)
    else:  # libsndfile reads none of these
        np.testing.assert_array_equal(read(data), values / (1 << bits - 1))


@pytest.mark.parametrize("bits", [12, 20])
def test_samples_of_12_and_20_bits_are_those_of_ffmpeg(bits: int) -> None:
    values = drawn("noise", 40 * 256, 2, bits, bits)
    data = flacs.written(values.tolist(), 16_000, bits, random.Random(1), size=256)
    with Track(data, "flac") as track:
        np.testing.assert_array_equal(read(data), np.concatenate(list(track.blocks(mono=False)), axis=1))


SMALL = flacs.written(drawn("noise", 120, 2, 16, 1).tolist(), 16_000, 16, random.Random(3))


def test_any_changed_byte_of_a_frame_is_noticed() -> None:
    """And none behind a cut is made up."""
    assert read(SMALL) is not None
    for at in range(42, len(SMALL)):
        for mask in (0x01, 0x10, 0x80, 0xFF):
            damaged = bytearray(SMALL)
            damaged[at] ^= mask
            assert read(bytes(damaged)) is None
    for size in range(42, len(SMALL)):
        assert read(SMALL[:size]) is None


def test_changes_that_fit_their_sums_are_read_as_libsndfile_reads_them() -> None:
    """Frames of one block whose sum is made anew: samples beyond their bits, other parameters, bits left over."""
    draw = random.Random(0)
    taken = 0
    for turn in range(60):
        kind, bits = draw.choice(KINDS), draw.choice((8, 16, 24))
        data = by_libflac(drawn(kind, draw.choice((5, 40, 100)), draw.choice((1, 2)), bits, turn), bits, 16_000, 1.0)
        begin, _ = decoder._first_frame(data)
        for _ in range(40):
            damaged = bytearray(data)
            for _ in range(draw.choice((1, 1, 2))):
                damaged[draw.randrange(begin + 8, len(data) - 2)] ^= 1 << draw.randrange(8)
            damaged[-2:] = flacs.crc16(damaged[begin:-2]).to_bytes(2, "big")
            found = read(bytes(damaged))
            if found is not None:
                taken += 1
                np.testing.assert_array_equal(found, theirs(bytes(damaged)))
    assert taken > 300


@pytest.mark.parametrize("mono", [True, False])
def test_pieces_are_the_whole(mono: bool) -> None:
    values = drawn("noise", 20_000, 2, 16, 5)
    data = by_libflac(values, 16, 16_000, 0.5)
    whole = read(data, mono=mono)
    assert whole is not None
    for cuts in ([0, 1, 4096, 4097, 9_000, 9_001, 20_000], [5_000, 5_001], [19_999, 20_000], [0, 0, 20_000, 20_000]):
        opened = frames(data)
        for first, last in pairwise(cuts):
            np.testing.assert_array_equal(opened.read(first, last - first, mono=mono), whole[..., first:last])


def test_what_was_read_or_refused_is_not_read_again() -> None:
    opened = frames(SMALL)
    opened.read(0, 50, mono=True)
    with pytest.raises(ValueError, match="not behind 50"):
        opened.read(49, 1, mono=True)
    with pytest.raises(ValueError, match="71 samples from 50"):
        opened.read(50, 71, mono=True)
    refused = frames(SMALL[:-1])
    assert refused.read(0, 120, mono=True) is None
    with pytest.raises(ValueError, match="from 0"):
        refused.read(0, 1, mono=True)


@pytest.mark.parametrize("mono", [True, False])
def test_nothing_is_written_beside_the_samples(mono: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    room = np.empty(0)

    def guarded(shape: tuple[int, ...], kind: type) -> np.ndarray:
        nonlocal room
        room = np.full(32 + int(np.prod(shape)), 7, kind)
        return room[16:-16].reshape(shape)

    monkeypatch.setattr(memory, "empty", guarded)
    data = by_libflac(drawn("noise", 700, 2, 16, 2), 16, 16_000, 0.5)
    for turn in range(300):
        damaged = bytearray(data)
        if turn:
            damaged[draw.randrange(8, len(data))] = draw.randrange(256)
        first = draw.randrange(700)
        opened = frames(bytes(damaged))
        most = opened._stream.samples
        if first < most:
            opened.read(first, min(700, most - first), mono=mono)
            assert (room[:16] == 7).all()
            assert (room[-16:] == 7).all()


def test_nothing_is_read_behind_the_file() -> None:
    """It ends where a page does, and the next page must not be touched."""
    data = by_libflac(drawn("noise", 3_000, 1, 16, 3), 16, 16_000, 0.5)
    pages = -(-len(data) // mmap.PAGESIZE)
    room = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    every = np.frombuffer(room, np.uint8)
    assert (
        ctypes.CDLL(None).mprotect(ctypes.c_void_p(every[pages * mmap.PAGESIZE :].ctypes.data), mmap.PAGESIZE, 0) == 0
    )
    for size in range(42, len(data) + 1, 7 if len(data) % 7 else 1):
        end = every[pages * mmap.PAGESIZE - size : pages * mmap.PAGESIZE]
        end[:] = np.frombuffer(data[:size], np.uint8)
        opened = frames(data)
        opened._data = end
        opened.read(0, 3_000, mono=True)
