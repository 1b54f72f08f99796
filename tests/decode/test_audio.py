"""Decoding sound against libsndfile, torchaudio and the signal that was encoded."""

from __future__ import annotations

import io
import struct
import tempfile

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.decode import audio_pyav, flac
from mmdata.decode import wav as wav_reader
from mmdata.decode.audio import decode, read_facts
from mmdata.decode.resample import resampled_length
from mmdata.errors import DataError
from tests.decode.sounds import RATE, by_ffmpeg, by_soundfile, chirp, corpus

NAMES = list(corpus())
LOSSLESS = [
    name for name in NAMES if name.startswith(("wav8", "wav16", "wav24", "wav32", "wavf", "wavd", "flac", "wavex"))
]


def sndfile(data: bytes) -> np.ndarray:
    """From a file: libsndfile 1.2.2 refuses whole mp3 files in memory on some machines ("bad data length")."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        wave: np.ndarray = soundfile.read(file.name, dtype="float32", always_2d=True)[0].T
    return wave


@pytest.mark.parametrize("name", [*LOSSLESS, "wavalaw", "wavulaw", "rf64", "aiff", "au", "caf", "w64", "nist"])
def test_plain_and_lossless_samples_are_bit_equal_to_libsndfile(name: str) -> None:
    data = corpus()[name]
    assert np.array_equal(decode(data, sample_rate=None, mono=False).numpy(), sndfile(data))


@pytest.mark.parametrize(("name", "bound"), [("mp3", 1e-5), ("vorbis", 1e-6), ("opus", 1e-6)])
def test_lossy_samples_agree_with_libsndfile(name: str, bound: float) -> None:
    data = corpus()[name]
    ours, theirs = decode(data, sample_rate=None, mono=False).numpy(), sndfile(data)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < bound


@pytest.mark.parametrize("name", NAMES)
def test_every_format_holds_the_encoded_chirp(name: str) -> None:
    """Found where it correlates best: containers without an edit list keep the encoder's silence before it."""
    facts = read_facts(corpus()[name])
    wave = decode(corpus()[name], sample_rate=None)
    truth = chirp(1.5, facts.sample_rate or 0).mean(axis=1)
    size = 1 << 18
    products = np.fft.irfft(np.fft.rfft(wave.numpy(), size) * np.conj(np.fft.rfft(truth, size)), size)
    assert products.max() > 0.93 * float(truth @ truth)
    assert products.argmax() <= 2048 + 1


@pytest.mark.parametrize("name", NAMES)
def test_facts_are_what_decode_gives(name: str) -> None:
    data = corpus()[name]
    native = decode(data, sample_rate=None, mono=False)
    facts, header = read_facts(data), read_facts(data, verify="header")
    assert (facts.channels, facts.samples) == tuple(native.shape)
    assert (facts.kind, facts.verified, header.verified) == ("audio", "full", "header")
    assert facts.samples is not None
    assert facts.sample_rate is not None
    assert facts.seconds == facts.samples / facts.sample_rate
    assert header.samples in (facts.samples, None)
    assert (header.sample_rate, header.channels, header.format) == (facts.sample_rate, facts.channels, facts.format)
    assert (header.samples is not None) == (name.startswith(("wav", "rf64", "flac")) and name != "wavadpcm")
    assert len(decode(data)) == resampled_length(facts.samples, facts.sample_rate, 16_000)


@pytest.mark.parametrize("name", ["wav16", "flac16", "mp3", "opus", "m4a"])
def test_mono_at_16_khz_is_the_mean_resampled_by_torchaudio(name: str) -> None:
    data = corpus()[name]
    native = decode(data, sample_rate=None, mono=False)
    rate = read_facts(data).sample_rate
    reference = torchaudio.functional.resample(native.mean(dim=0), rate, 16_000)
    ours = decode(data)
    assert ours.dtype == torch.float32
    assert ours.shape == reference.shape
    assert float((ours - reference).abs().max()) < 1e-6
    stereo = decode(data, mono=False)
    assert float((stereo - torchaudio.functional.resample(native, rate, 16_000)).abs().max()) < 1e-6


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["wav16", "wav24", "flac16", "mp3", "opus"]),
    st.integers(0, 25_000),
    st.none() | st.integers(0, 25_000),
    st.sampled_from([None, 16_000, 24_000]),
    st.booleans(),
)
def test_a_piece_is_the_slice_of_the_whole(
    name: str, start: int, stop: int | None, rate: int | None, mono: bool
) -> None:
    data = corpus()[name]
    whole = decode(data, sample_rate=rate, mono=mono)[..., start:stop]
    piece = decode(data, sample_rate=rate, mono=mono, start=start, stop=stop)
    assert piece.shape == whole.shape
    assert piece.numel() == 0 or float((piece - whole).abs().max()) < 1e-6


def wav(
    body: bytes,
    *,
    code: int = 1,
    channels: int = 1,
    rate: int = 16_000,
    bits: int = 16,
    size: int | None = None,
    extra: bytes = b"",
) -> bytes:
    block = channels * bits // 8
    format = struct.pack("<HHIIHH", code, channels, rate, min(rate * block, 2**32 - 1), block % 65536, bits) + extra
    declared = len(body) if size is None else size
    chunks = b"fmt " + struct.pack("<I", len(format)) + format + b"data" + struct.pack("<I", declared) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


SAMPLES = np.array([0, 1, -1, 32767, -32768, 12345], "<i2")


@pytest.mark.parametrize("size", [0, 2**32 - 1, 2**31, 100, len(SAMPLES) * 2])
def test_a_wav_header_that_promises_too_much_gives_what_is_there(size: int) -> None:
    data = wav(SAMPLES.tobytes(), size=size)
    assert decode(data).tolist() == (SAMPLES / 32768).tolist()
    assert read_facts(data, verify="header").samples == len(SAMPLES)


def test_wav_cut_inside_a_sample_gives_the_whole_ones() -> None:
    assert decode(wav(SAMPLES.tobytes())[:-3]).tolist() == (SAMPLES[:-2] / 32768).tolist()


def test_wav_of_64_bits_big_endian_and_unaligned() -> None:
    wide = np.array([0, 2**62, -(2**63), 1 << 40], "<i8")
    assert decode(wav(wide.tobytes(), bits=64)).tolist() == [0.0, 0.5, -1.0, 2.0**-23]
    big = wav(SAMPLES.tobytes())
    swapped = b"RIFX" + struct.pack(">I", len(big) - 8) + b"WAVEfmt " + struct.pack(">I", 16)
    swapped += struct.pack(">HHIIHH", 1, 1, 16_000, 32_000, 2, 16) + b"data" + struct.pack(">I", 12)
    swapped += SAMPLES.astype(">i2").tobytes()
    assert torch.equal(decode(swapped), decode(big))
    odd = big[:12] + b"LIST" + struct.pack("<I", 3) + b"abc\0" + big[12:]  # an odd chunk is followed by a byte
    assert torch.equal(decode(odd), decode(big))


def test_wav_of_20_bits_lies_at_the_upper_end_of_three_bytes() -> None:
    data = wav(b"\0\0\x40" + b"\0\0\xc0", bits=24)
    twenty = data[:34] + struct.pack("<H", 20) + data[36:]
    assert decode(twenty).tolist() == [0.5, -0.5]


def test_six_channels_become_their_mean() -> None:
    wave = chirp(0.5, 16_000, channels=6)
    for data in (by_soundfile(wave, 16_000, "WAV", "FLOAT"), by_soundfile(wave, 16_000, "FLAC", "PCM_24")):
        assert np.abs(decode(data).numpy() - sndfile(data).mean(axis=0)).max() < 1e-6
    assert decode(by_ffmpeg(wave, 16_000, "aac", "ipod"), mono=False).shape[0] == 6


def test_a_wave_without_samples_is_empty_and_16_khz_is_left_alone() -> None:
    assert decode(wav(b"")).shape == (0,)
    assert read_facts(wav(b"")).samples == 0
    random = np.random.default_rng(0).integers(-32768, 32767, 1000).astype("<i2")
    assert np.array_equal(decode(wav(random.tobytes())).numpy(), random / np.float32(32768))


def test_limits_hold_before_and_while_samples_arrive() -> None:
    for name in ("wav16", "flac16", "mp3", "m4a"):
        for call in (decode, read_facts):
            with pytest.raises(DataError, match="audio_too_long"):
                call(corpus()[name], max_seconds=1.0)
        assert len(decode(corpus()[name], stop=8_000, max_seconds=1.0)) == 8_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "not_audio"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not_audio"),
        (bytes(range(256)), "not_audio"),
        (b"RIFF\0\0\0\0WAVE", "truncated_audio"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "bad_header"),
        (wav(b"abcd", channels=0), "bad_header"),
        (wav(b"abcd", channels=65_535), "bad_header"),
        (wav(b"abcd", rate=0), "bad_header"),
        (wav(b"abcd", rate=2**32 - 1), "bad_header"),
        (wav(bytes(10_000), rate=1), "audio_too_long"),
        (b"fLaC" + bytes(100), "bad_header"),
        (b"ID3\x04\0\0\0\0\0\0" + bytes(100), "bad_header"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_sound_is_named(data: bytes, reason: str) -> None:
    for call in (decode, read_facts):
        with pytest.raises(DataError) as caught:
            call(data)
        assert caught.value.reason == reason


def test_a_file_without_a_sound_track_is_named() -> None:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        out.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        out.mux(video.encode(None))
    with pytest.raises(DataError, match="no_audio"):
        decode(file.getvalue())


def test_playlists_open_nothing(tmp_path: object) -> None:
    """FFmpeg would read the file that a playlist names."""
    for text in (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"):
        with pytest.raises(DataError, match="not_audio"):
            decode(text)


def test_wrong_arguments_are_the_callers_fault() -> None:
    for wrong in ({"start": -1}, {"stop": -1}, {"sample_rate": 0}):
        with pytest.raises(ValueError, match="count from"):
            decode(corpus()["wav16"], **wrong)  # type: ignore[arg-type]


def test_tags_around_an_mp3_are_no_damage() -> None:
    data = corpus()["mp3"]
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    tagged = tag + data + b"TAG" + bytes(125)
    assert torch.equal(decode(tagged), decode(data))
    assert read_facts(tag + corpus()["flac16"]).format == "flac"


def test_rates_are_read_from_the_samples() -> None:
    assert read_facts(corpus()["mp4"]).sample_rate == RATE


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_is_the_same_in_however_many_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = corpus()[name]
    ways: list[dict[str, object]] = [{}, {"sample_rate": None, "mono": False}, {"start": 1000, "stop": 9000}]
    whole = [decode(data, **way) for way in ways]  # type: ignore[arg-type]
    for module in (audio_pyav, flac, wav_reader):
        monkeypatch.setattr(module, "_BLOCK", 3000)
    for way, expected in zip(ways, whole, strict=True):
        assert torch.equal(decode(data, **way), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mp3", "opus", "mkv", "flac24"])
@pytest.mark.parametrize("mono", [True, False])
@pytest.mark.parametrize("first", [0, 1500])
@pytest.mark.parametrize("last", [None, 20_000])
def test_blocks_are_as_long_in_however_many_pieces_they_are_made(
    name: str, mono: bool, first: int, last: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows resamples block by block: where they end must not depend on what a cache holds."""
    monkeypatch.setattr(audio_pyav, "_BLOCK", 9000)
    found = []
    for size in (1 << 30, 1, 5000):
        monkeypatch.setattr(audio_pyav, "_PIECE", size)
        with audio_pyav.Track(corpus()[name], audio_pyav.container(corpus()[name])) as track:
            found.append(list(track.blocks(mono=mono, first=first, last=last)))
    assert len(found[0]) > 2
    for blocks in found[1:]:
        assert [block.shape for block in blocks] == [block.shape for block in found[0]]
        assert all(np.array_equal(one, other) for one, other in zip(blocks, found[0], strict=True))
