"""FLAC by our kernel, where that was compiled and nothing is unusual, else by libsndfile (soundfile), which is faster
than FFmpeg for short mono; FFmpeg judges what is damaged.

All give the integers that were encoded, so a file may pass from one to the next anywhere.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmdata.native import flac as native

if TYPE_CHECKING:
    import soundfile

    from mmdata.decode.audio_pyav import Track

Wave = npt.NDArray[np.float32]

_BLOCK = 1 << 20
"""Samples that are read at once."""
_BITS_READ = (8, 16, 24)
"""Bits of a sample that libsndfile hands out as float32 without rounding them."""


class Flac:
    """A file whose header is plain; `open_flac` tells. It is read once."""

    format = "flac"
    floating = False

    def __init__(
        self, data: bytes, sample_rate: int, channels: int, samples: int, frames: native.Frames | None = None
    ) -> None:
        self._data = data
        self._frames = frames
        self.sample_rate = sample_rate
        self.channels = channels
        self.samples: int = samples

    def blocks(self, *, mono: bool, first: int = 0, last: int | None = None) -> Iterator[Wave]:
        """Samples first <= i < last, about a million at a time: float32 [n] as the mean of channels, or [channels, n].

        Raises DataError as FFmpeg's track does: it takes over where libsndfile finds fault or too few samples.
        """
        last = self.samples if last is None else min(last, self.samples)
        at = first
        # The kernel looks for no place in a file: it reads what lies before, which is worth it where that is not more.
        if self._frames is not None and first <= last - first:
            while at < last:
                block = self._frames.read(at, min(_BLOCK, last - at), mono=mono)
                if block is None:
                    break
                at += block.shape[-1]
                yield block
        if at < last:  # What the others say of a file may depend on where they begin.
            yield from _behind(self._by_libsndfile(mono, first, last), at - first)

    def _by_libsndfile(self, mono: bool, first: int, last: int) -> Iterator[Wave]:
        import soundfile

        at = first
        try:
            with _forward()(io.BytesIO(self._data)) as file:
                agrees = (file.samplerate, file.channels, file.frames) == (
                    self.sample_rate,
                    self.channels,
                    self.samples,
                )
                if agrees and first:
                    file.seek(first)
                while agrees and at < last:
                    block = file.read(out=np.empty((min(_BLOCK, last - at), self.channels), np.float32))
                    if not len(block):
                        break
                    at += len(block)
                    yield self._floats(block, mono)
        except soundfile.SoundFileError:
            pass
        if at < last:
            with self._track() as track:
                yield from track.blocks(mono=mono, first=at, last=last)

    def _track(self) -> Track:
        from mmdata.decode.audio_pyav import Track

        return Track(self._data, "flac")

    def _floats(self, block: Wave, mono: bool) -> Wave:
        """Samples [n, channels] as they are asked for."""
        if not mono:
            return np.ascontiguousarray(block.T)
        if self.channels == 1:
            return block[:, 0]
        out = block[:, 0] + block[:, 1]
        for channel in block.T[2:]:
            out += channel
        out *= np.float32(1 / self.channels)
        return out


def _behind(blocks: Iterator[Wave], passed: int) -> Iterator[Wave]:
    """What follows so many samples."""
    for block in blocks:
        if passed < block.shape[-1]:
            yield block[..., passed:]
        passed = max(0, passed - block.shape[-1])


@functools.cache
def _forward() -> type[soundfile.SoundFile]:
    """A file that is read from here on: soundfile else seeks after each read to where that ended, and libFLAC decodes
    the last frame anew for it."""
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return Forward


def open_flac(data: bytes) -> Flac | None:
    """The file, if its header says all that there is to know and its first and last frames do not contradict; None is
    for FFmpeg to read: streams of unknown length, odd sample sizes, damaged headers, cut files.

    (RFC 9639: 8.1 and 8.2 for STREAMINFO, 9.1 for the header of a frame.)
    """
    if data[:4] != b"fLaC" or len(data) < 42 or data[4] & 0x7F or int.from_bytes(data[5:8], "big") != 34:
        return None
    packed = int.from_bytes(data[18:26], "big")
    rate, channels, bits, samples = (
        packed >> 44,
        (packed >> 41 & 7) + 1,
        (packed >> 36 & 31) + 1,
        packed & (1 << 36) - 1,
    )
    blocks = int.from_bytes(data[8:10], "big"), int.from_bytes(data[10:12], "big")
    if not rate or not samples or bits not in _BITS_READ:
        return None
    start, plain = _first_frame(data)
    if not _agrees(data[start : start + 4], rate, channels, bits) or not _last_agrees(data, samples):
        return None
    frames = None
    if plain:
        frames = native.frames(
            data, rate=rate, channels=channels, bits=bits, blocks=blocks, samples=samples, byte=start
        )
    return Flac(data, rate, channels, samples, frames)


_RATES = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
_BITS = (0, 8, 12, None, 16, 20, 24, 32)
_PICTURE = 6
_READ = (0, 5, 127)
"""Metadata that some reader looks into and may refuse: STREAMINFO once more, a cue sheet, what is no block at all."""
_TAIL = 1 << 17
"""Bytes at the end in which the last frame is looked for, the tags of other formats behind it included."""


def _first_frame(data: bytes) -> tuple[int, bool]:
    """Where the metadata end, and whether none of it could make a reader refuse the file (RFC 9639, 8.1)."""
    at, is_last, plain = 42, bool(data[4] & 0x80), True
    while not is_last:
        header = data[at : at + 4]
        if len(header) < 4:
            return len(data), False
        is_last, kind, size = bool(header[0] & 0x80), header[0] & 0x7F, int.from_bytes(header[1:], "big")
        plain = plain and kind not in _READ and (kind != _PICTURE or _whole_picture(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return at, plain


def _whole_picture(block: bytes) -> bool:
    """Whether its parts have the lengths that it tells: a kind, a format's name, a text, four numbers, the picture."""
    at = 4
    for passed in (0, 16, 0):
        at += 4 + int.from_bytes(block[at : at + 4], "big") + passed
    return at == len(block)


def _agrees(frame: bytes, rate: int, channels: int, bits: int) -> bool:
    """Whether a frame has the rate, channels and sample size of the header, be it by not naming them."""
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xFE != 0xF8:
        return False
    of_rate, of_channels, of_bits = frame[2] & 15, frame[3] >> 4, frame[3] >> 1 & 7
    return (
        of_rate < len(_RATES)
        and _RATES[of_rate] in (0, rate)
        and (2 if 8 <= of_channels < 11 else of_channels + 1) == channels
        and _BITS[of_bits] in (0, bits)
    )


def _last_agrees(data: bytes, samples: int) -> bool:
    """Whether a frame near the end ends with the last of the samples that the header declares."""
    block = int.from_bytes(data[8:10], "big")
    end, start = len(data), max(42, len(data) - _TAIL)
    while (at := data.rfind(b"\xff", start, end)) >= 0:
        if data[at + 1 : at + 2] in (b"\xf8", b"\xf9") and _ends(data[at : at + 16], block) == samples:
            return True
        end = at
    return False


def _ends(frame: bytes, block: int) -> int | None:
    """The sample behind a frame, by its header; None where it is none. `block` is the size of all but the last."""
    if len(frame) < 16:
        return None
    code, ones = frame[2] >> 4, 8 - (frame[4] ^ 0xFF).bit_length()  # The number is coded as UTF-8 codes characters.
    if not code or ones == 1 or ones > 7:
        return None
    length = max(ones, 1)
    number = frame[4] & (0x7F >> ones)
    for byte in frame[5 : 4 + length]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    at = 4 + length
    wide = {6: 1, 7: 2}.get(code, 0)
    if wide:
        size = int.from_bytes(frame[at : at + wide], "big") + 1
    else:
        size = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    at += wide + {12: 1, 13: 2, 14: 2}.get(frame[2] & 15, 0)
    if at >= len(frame) or _crc8(frame[:at]) != frame[at]:
        return None
    return (number if frame[1] & 1 else number * block) + size


def _crc8(data: bytes) -> int:
    """Polynomial x^8 + x^2 + x + 1, from 0."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc
