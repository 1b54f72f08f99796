"""Damaged sound: a named DataError or the samples that are there, never a crash, a hang or memory without bound."""

from __future__ import annotations

import resource
import time
from dataclasses import replace

import numpy as np
import pytest

from mmdata.decode import excerpt
from mmdata.decode.audio import decode, read_facts
from mmdata.decode.resample import resampled_length
from mmdata.errors import DataError
from mmdata.types import Clip, Media
from tests.decode.sounds import by_soundfile, corpus

REASONS = {
    "",
    "empty",
    "not_audio",
    "no_audio",
    "bad_header",
    "truncated_audio",
    "corrupt_audio",
    "unsupported_audio",
    "unsupported_codec",
    "audio_too_long",
}
SECONDS = 5.0
"""CPU time of one damaged file of 1.5 s, on any machine."""


def survives(data: bytes) -> int | None:
    """Samples that were answered, or None for a named refusal. What is answered is what the facts say."""
    begun = time.process_time()
    reason, samples = outcome(data)
    assert time.process_time() - begun < SECONDS
    assert reason in REASONS
    return samples


def outcome(data: bytes) -> tuple[str, int | None]:
    try:
        wave = decode(data, max_seconds=120.0)
    except DataError as error:
        return error.reason, None
    facts = read_facts(data, max_seconds=120.0)
    assert facts.samples is not None
    assert facts.sample_rate is not None
    assert len(wave) == resampled_length(facts.samples, facts.sample_rate, 16_000)
    return "", len(wave)


@pytest.mark.parametrize("name", [name for name in corpus() if name not in ("wav8", "wav32", "wavdouble", "au", "caf")])
def test_cut_at_every_kilobyte(name: str) -> None:
    data = corpus()[name]
    whole = len(decode(data))
    step = max(1024, len(data) // 48 // 1024 * 1024)
    lengths = [survives(data[:size]) for size in [1, 3, 11, 12, 40, 100, *range(512, len(data), step)]]
    answered = [length for length in lengths if length is not None]
    assert all(length <= whole for length in answered)
    if name.startswith("wav") and name != "wavadpcm":
        assert len(answered) >= len(lengths) - 6, "a cut wav gives what is there"
    if name.startswith("flac"):
        assert not answered, "a flac knows how long it is"
    if name in ("mp3", "vorbis", "opus", "aac"):
        assert answered == sorted(answered)
        assert answered[-1] > 0.5 * whole  # an Ogg page holds up to a second, and is lost as one


@pytest.mark.parametrize("name", [name for name in corpus() if name not in ("wav8", "wav32", "wavdouble", "au", "caf")])
def test_flipped_bytes(name: str) -> None:
    random = np.random.default_rng(len(name))
    for at in range(16):
        damaged = bytearray(corpus()[name])
        reach = 400 if at % 2 else len(damaged)  # every other time in the headers
        for place in random.integers(0, reach, random.integers(1, 16)):
            damaged[place] = int(random.integers(256))
        survives(bytes(damaged))


def test_damage_in_the_middle_of_a_flac_is_found() -> None:
    data = bytearray(corpus()["flac16"])
    for place in range(20_000, len(data) - 20_000, 9_973):
        data[place] ^= 0x10
    with pytest.raises(DataError, match=r"corrupt_audio|truncated_audio"):
        decode(bytes(data))


def test_noise_behind_a_right_magic_number() -> None:
    random = np.random.default_rng(1)
    for magic in (
        b"RIFF\xff\xff\xff\xffWAVEfmt ",
        b"OggS\0\2",
        b"fLaC\0\0\0\x22",
        b"\xff\xfb\x90\x64",
        b"\xff\xf1\x50\x80",
        b"\0\0\0\x20ftypM4A ",
        b"\x1aE\xdf\xa3\x01",
        b"FORM\0\0\xff\xffAIFF",
        b".snd",
        b"caff\0\1",
        b"FLV\1",
    ):
        for _ in range(4):
            survives(magic + random.integers(0, 256, 5000).astype(np.uint8).tobytes())


def test_a_header_does_not_allocate() -> None:
    """A gigabyte declared over a kilobyte of samples, in wav and aiff; a flac header of 2^36 samples."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wav = bytearray(corpus()["wav16"][:2048])
    wav[40:44] = (1 << 30).to_bytes(4, "little")
    assert survives(bytes(wav)) is not None
    flac = bytearray(corpus()["flac16"])
    flac[21] |= 0x0F
    flac[22:26] = b"\xff\xff\xff\xff"
    with pytest.raises(DataError, match="audio_too_long"):
        decode(bytes(flac))
    aiff = bytearray(corpus()["aiff"][:2048])
    aiff[22:26] = (1 << 30).to_bytes(4, "big")
    survives(bytes(aiff))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


@pytest.mark.parametrize("format", ["WAV", "AIFF", "AU", "CAF"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_numbers_are_damage(format: str, value: float) -> None:
    wave = np.zeros((40_000, 2), np.float32)
    assert read_facts(by_soundfile(wave, 16_000, format, "FLOAT")).verified == "full"
    wave[-1, 1] = value
    data = by_soundfile(wave, 16_000, format, "FLOAT")
    for call in (read_facts, decode, lambda data: decode(data, mono=False)):
        with pytest.raises(DataError, match=r"corrupt_audio: .* not finite"):
            call(data)
    assert not decode(data, stop=100).any()  # what was asked for is sound
    whole = Media(kind="audio", data=data, excerpt=Clip(start=1.0))
    with pytest.raises(DataError, match=r"corrupt_audio: .* not finite"):
        excerpt.taken(whole)
    assert excerpt.taken(replace(whole, excerpt=Clip(start=0.0, stop=1.0))).data


def test_an_ogg_that_is_cut_within_its_headers_is_truncated() -> None:
    data = by_soundfile(np.zeros(16_000, np.float32), 16_000, "OGG", "VORBIS")
    for size in range(30, 3000, 330):
        with pytest.raises(DataError, match="truncated_audio"):
            read_facts(data[:size])
