"""Damage any picture, sound or film: cut, flipped, spliced, lying, mistaken for another, exploding; each with its end.

    from mmdata.testing import corrupt, corruptions

    damaged = corrupt(open("cat.jpg", "rb").read(), "jpeg", "cut", seed=7)
    for damaged in corruptions(1000, seed=1):      # all kinds of all formats in turn, over files made from the seed
        print(damaged.format, damaged.kind, damaged.outcome, len(damaged.data))

`outcome` says what a careful reader must make of it. Most formats carry no checksum, so not all damage can be seen:

    refused   the file itself proves that it is not whole: a named error, never pixels
    either    refused by name, or read as what its facts say (a flipped bit in a JPEG's scan is another picture)
    whole     looks odd and is to be read, to the last pixel or sample that it has

`damage.py` beside this has the web's usual damage to JPEGs of the embedded example, under exact reasons.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmdata.rng import generator
from mmdata.testing.specimens import FILMS, FORMATS, IMAGES, SOUNDS, Format, specimen
from mmdata.types import MediaKind

Outcome = Literal["refused", "either", "whole"]
Corrupting = Callable[[bytes, Format, np.random.Generator], bytes]

_ANY = {"empty", "bad_header", "unsupported_codec"}
REASONS: dict[MediaKind, frozenset[str]] = {
    "image": frozenset(
        {"truncated_image", "corrupt_image", "not_an_image", "html_not_image", "unsupported_format"}
        | {"decompression_bomb", "decoder_memory"}
        | _ANY
    ),
    "audio": frozenset(
        {"truncated_audio", "corrupt_audio", "not_audio", "no_audio", "unsupported_audio", "audio_too_long"} | _ANY
    ),
    "video": frozenset(
        {"truncated_video", "corrupt_video", "not_a_video", "html_not_video", "no_video", "no_frames"}
        | {"missing_frames", "frame_size_changes", "too_many_frames", "video_too_long", "unsupported_video"}
        | {"decompression_bomb", "decoder_timeout"}
        | _ANY
    ),
}
"""The names under which damage of a medium may be refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """A damaged file: its bytes, what was done (`kind`), to a file of which `format` and `medium`, from which `seed`,
    and the end it must come to."""

    data: bytes
    kind: str
    format: Format
    medium: MediaKind
    seed: int
    outcome: Outcome

    @property
    def reasons(self) -> frozenset[str]:
        """The reasons under which it may be refused."""
        return REASONS[self.medium]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of damage: how it is done, and the formats of whose files it makes what must be `refused`, what may end
    `either` way, and what stays `whole`. To other formats it is not done."""

    name: str
    make: Corrupting
    refused: tuple[Format, ...] = ()
    either: tuple[Format, ...] = ()
    whole: tuple[Format, ...] = ()

    def outcome(self, format: Format) -> Outcome | None:
        return (
            "refused"
            if format in self.refused
            else "either"
            if format in self.either
            else "whole"
            if format in self.whole
            else None
        )


def _place(data: bytes, random: np.random.Generator, least: float = 0.0, most: float = 1.0) -> int:
    """An offset between two shares of the file."""
    return int(random.integers(int(least * len(data)), max(int(most * len(data)), int(least * len(data)) + 1)))


def empty(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """Nothing."""
    return b""


def stub(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """The first 4 to 31 bytes."""
    return data[: int(random.integers(4, 32))]


def cut(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """Two to nineteen twentieths of the file."""
    return data[: _place(data, random, 0.1, 0.95)]


def flip(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """One to eight bits anywhere."""
    spoilt = bytearray(data)
    for bit in random.choice(8 * len(data), int(random.integers(1, 9)), replace=False).tolist():
        spoilt[bit >> 3] ^= 1 << (bit & 7)
    return bytes(spoilt)


def flip_head(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """A bit within the first 64 bytes."""
    spoilt = bytearray(data)
    spoilt[int(random.integers(min(64, len(data))))] ^= 1 << int(random.integers(8))
    return bytes(spoilt)


def sector(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """A stretch of up to 512 bytes overwritten by noise, as a bad sector is by whatever was there."""
    size = min(512, len(data) // 4)
    at = _place(data, random, 0.2, 0.75)
    return data[:at] + random.bytes(size) + data[at + size :]


def splice(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """The beginning of this file and the rest of another of its format, each at its own place."""
    other = specimen(format, int(random.integers(1 << 16, 1 << 16 | 7)))
    return data[: _place(data, random, 0.2, 0.8)] + other[_place(other, random, 0.2, 0.8) :]


def repeat(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """A stretch of 20 to 200 bytes that comes twice."""
    at, size = _place(data, random, 0.1, 0.8), int(random.integers(20, 200))
    return data[: at + size] + data[at:]


def gap(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """A stretch of 20 to 200 bytes that is missing."""
    at, size = _place(data, random, 0.2, 0.7), int(random.integers(20, 200))
    return data[:at] + data[at + size :]


def noise(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """The first 16 bytes, and noise."""
    return data[:16] + random.bytes(3000)


def trailing(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """The whole file, and some hundred bytes behind its end."""
    return data + random.bytes(int(random.integers(1, 800)))


def mistaken(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """Something else under this name: a page, an error of an API, a sentence, an archive, noise, another medium."""
    number = int(random.integers(1 << 30))
    sound, picture = specimen("flac", number % 7), specimen("png", number % 7)
    others = (
        f"<!DOCTYPE html>\n<html><head><title>Gone</title></head><body>{number}</body></html>".encode(),
        f'{{"error": "quota exceeded", "request": {number}}}'.encode(),
        f"This file is no longer here. Reference {number}.\n".encode(),
        b"PK\x03\x04" + random.bytes(400),
        b"%%PDF-1.4\n%% %d\n" % number,
        b"\0" + random.bytes(900),
        sound if format in IMAGES else picture,
    )
    return others[int(random.integers(len(others)))]


def _png(data: bytes, width: int, height: int) -> bytes:
    """The PNG under another IHDR, its checksum right."""
    head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def _sized(data: bytes, format: Format, width: int, height: int) -> bytes:
    """The picture, its header saying another size."""
    if format == "png":
        return _png(data, width, height)
    if format == "jpeg":
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", min(height, 65_535), min(width, 65_535)) + data[at + 4 :]
    if format == "gif":
        return data[:6] + struct.pack("<HH", min(width, 65_535), min(height, 65_535)) + data[10:]
    if format == "bmp":
        return data[:18] + struct.pack("<ii", width, height) + data[26:]
    if format == "webp":  # lossy, 14 bits each (RFC 6386, 9.1)
        return data[:26] + struct.pack("<HH", min(width, 16_383), min(height, 16_383)) + data[30:]
    raise ValueError(f"no size to change in a {format}")


def _size(data: bytes, format: Format) -> tuple[int, int]:
    """Width and height as the header says them."""
    if format == "png":
        width, height = struct.unpack(">II", data[16:24])
    elif format == "jpeg":
        at = data.index(b"\xff\xc0") + 5
        height, width = struct.unpack(">HH", data[at : at + 4])
    elif format == "gif":
        width, height = struct.unpack("<HH", data[6:10])
    elif format == "bmp":
        width, height = struct.unpack("<ii", data[18:26])
    else:
        width, height = (value & 0x3FFF for value in struct.unpack("<HH", data[26:30]))
    return int(width), int(height)


def _flac(data: bytes, samples: int) -> bytes:
    """The FLAC, its STREAMINFO saying another number of samples: 36 bits from byte 21 on (RFC 9639, 8.2)."""
    return data[:21] + bytes([data[21] & 0xF0 | samples >> 32]) + struct.pack(">I", samples & 0xFFFFFFFF) + data[26:]


def _box(data: bytes, name: bytes, at: int, value: bytes) -> bytes:
    """The MP4 with bytes replaced in the payload of a box."""
    start = data.index(name) + 4 + at
    return data[:start] + value + data[start + len(value) :]


def lying(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """A header that promises more than there is: twice to five times the rows, samples or frames."""
    times = int(random.integers(2, 6))
    if format in IMAGES:
        width, height = _size(data, format)
        return _sized(data, format, width, height * times)
    if format == "flac":
        return _flac(data, int.from_bytes(data[22:26], "big") * times)
    if format == "wav":
        at = data.index(b"data") + 4
        return data[:at] + struct.pack("<I", len(data) * times) + data[at + 4 :]
    frames = int.from_bytes(data[data.index(b"stsz") + 12 : data.index(b"stsz") + 16], "big")
    return _box(data, b"stsz", 8, struct.pack(">I", frames * times))


def bomb(data: bytes, format: Format, random: np.random.Generator) -> bytes:
    """A header that announces gigabytes: 40,000 pixels a side and more, days of sound, billions of frames."""
    side = int(random.integers(40_000, 65_535))
    if format in IMAGES:
        return _sized(data, format, side, side)
    if format == "flac":
        return _flac(data, (1 << 36) - 1 - int(random.integers(1 << 20)))
    return _box(data, b"stsz", 8, struct.pack(">I", 0x7FFFFFFF - int(random.integers(1 << 20))))


def _but(*formats: Format) -> tuple[Format, ...]:
    return tuple(each for each in FORMATS if each not in formats)


TOLD: tuple[Format, ...] = ("jpeg", "png", "webp", "gif", "tiff", "flac", "mp4", "mkv", "webm", "avi")
"""Formats that tell when their end is missing. BMP does too, by its size."""
KINDS: tuple[Kind, ...] = (
    Kind(name="empty", make=empty, refused=FORMATS),
    Kind(name="stub", make=stub, refused=FORMATS),
    Kind(name="cut", make=cut, refused=(*TOLD, "bmp"), either=("wav", "mp3", "ogg")),
    Kind(name="flip", make=flip, refused=("png",), either=_but("png")),
    Kind(name="flip_head", make=flip_head, refused=("png",), either=_but("png")),
    Kind(name="sector", make=sector, refused=("png", "flac"), either=_but("png", "flac")),
    Kind(name="splice", make=splice, refused=("png", "flac"), either=_but("png", "flac")),
    Kind(name="repeat", make=repeat, refused=("png",), either=_but("png")),
    Kind(name="gap", make=gap, refused=("png", "flac"), either=_but("png", "flac")),
    Kind(name="noise", make=noise, refused=IMAGES[:4], either=FORMATS[4:]),
    Kind(name="mistaken", make=mistaken, refused=FORMATS),
    Kind(
        name="lying", make=lying, refused=("png", "jpeg", "bmp", "flac", "mp4"), either=("gif", "webp"), whole=("wav",)
    ),
    Kind(name="bomb", make=bomb, refused=("jpeg", "png", "webp", "gif", "bmp", "flac", "mp4")),
    Kind(name="trailing", make=trailing, whole=("jpeg", "png", "gif", "webp"), either=(*SOUNDS, *FILMS)),
)
"""Every kind of damage, in the order in which `corruptions` takes them."""
BY_NAME = {kind.name: kind for kind in KINDS}
PAIRS = tuple((kind, format) for kind in KINDS for format in FORMATS if kind.outcome(format) is not None)
"""Every kind with every format that it is done to."""


def corrupt(data: bytes, format: Format, kind: str, *, seed: int = 0) -> Corruption:
    """Damage a whole file of a format: a function of its arguments; the bytes always differ from the given ones.

    The outcome holds for files as cameras and encoders write them: JPEGs that are baseline, MP4s of one video track,
    WebPs that are lossy. Raises ValueError for a kind that is not known or is not done to the format.

    >>> corrupt(specimen("png"), "png", "lying", seed=3).outcome
    'refused'
    >>> corrupt(specimen("wav"), "wav", "bomb")
    Traceback (most recent call last):
    ValueError: bomb: not done to wav; it is to jpeg, png, webp, gif, bmp, flac, mp4
    """
    if kind not in BY_NAME:
        raise ValueError(f"no kind {kind!r}; known are {', '.join(BY_NAME)}")
    how = BY_NAME[kind]
    outcome = how.outcome(format)
    if outcome is None:
        raise ValueError(f"{kind}: not done to {format}; it is to {', '.join((*how.refused, *how.either, *how.whole))}")
    random = generator(seed, "corrupt", kind, format)
    damaged = how.make(data, format, random)
    while damaged == data:  # noise that happens to be what was there
        damaged = how.make(data, format, random)
    medium: MediaKind = "image" if format in IMAGES else "audio" if format in SOUNDS else "video"
    return Corruption(data=damaged, kind=kind, format=format, medium=medium, seed=seed, outcome=outcome)


def corruptions(count: int, *, seed: int = 0, first: int = 0) -> Iterator[Corruption]:
    """Number `first` to `first + count - 1` of an endless row of damaged files: kinds and formats in turn, over whole
    files made from the seed. Every number is a function of the seed alone, so that a row can be made in parts.

    >>> [one.kind for one in corruptions(3)], next(corruptions(1, first=2)) == list(corruptions(3))[2]
    (['empty', 'cut', 'flip_head'], True)
    """
    for number in range(first, first + count):
        kind, format = PAIRS[number * STRIDE % len(PAIRS)]
        data = specimen(format, generator(seed, "original", number).integers(12).item())
        yield corrupt(data, format, kind.name, seed=seed * 1_000_003 + number)


STRIDE = 31
"""Pairs are taken so many apart, which mixes kinds and formats; it shares no factor with their number."""
