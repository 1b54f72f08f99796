"""WAV (RIFF, RF64, BW64): the header, and plain samples as float32 without a codec library.

Damage is answered with what is there: a header that promises more samples than follow (streams whose writer never
came back to fill in the length, files cut short) is no error, and neither is a last block that is incomplete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mmdata.errors import DataError

PCM, FLOAT, ALAW, MULAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_MAGIC = (b"RIFF", b"RF64", b"BW64", b"RIFX")
_EXTENSION_GUID = bytes.fromhex("000000001000800000aa00389b71")  # what follows the format code in a sub-format

_BLOCK = 1 << 20
"""Samples times channels that are converted at once: a minute at 16 kHz in one piece. To join pieces takes as long as
to convert them, more than a cache would spare."""

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class WavHeader:
    """Where the samples are. `samples` counts those present of one channel, whatever the header promises.

    `code` is the format tag; of `bits` per sample only whole bytes are stored. `big` says that they are big-endian."""

    code: int
    channels: int
    sample_rate: int
    bits: int
    offset: int
    samples: int
    big: bool = False

    @property
    def plain(self) -> bool:
        """Whether `read` knows the encoding; the others (ADPCM, GSM, MP3 in a WAV) need a codec."""
        return (self.code, self.bits) in _CONVERT


def is_wav(data: bytes) -> bool:
    return data[:4] in _MAGIC and data[8:12] == b"WAVE"


def read_header(data: bytes) -> WavHeader:
    """Raises DataError `truncated_audio` where the bytes end before any sample's place is known, `bad_header`."""
    big = data[:4] == b"RIFX"
    order = ">" if big else "<"
    format: bytes | None = None
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int(np.frombuffer(data, order + "u4", 1, at + 4)[0])
        if name == b"fmt ":
            format = data[at + 8 : at + 8 + size]
        elif name == b"data":
            return _header(format, at + 8, _data_size(data, at + 8, size), big)
        at += 8 + size + size % 2
    raise DataError("truncated_audio", f"WAV of {len(data):,} bytes without a data chunk")


def _data_size(data: bytes, offset: int, size: int) -> int:
    """Bytes of samples. RF64 keeps the true size in its first chunk, where 32 bits do not hold it."""
    if data[:4] in (b"RF64", b"BW64") and size == 0xFFFFFFFF and data[12:16] == b"ds64" and len(data) >= 36:
        size = int.from_bytes(data[28:36], "little")
    there = len(data) - offset
    # Writers of streams leave 0 there, and never come back.
    return there if size == 0 else min(size, there)


def _header(format: bytes | None, offset: int, size: int, big: bool) -> WavHeader:
    if format is None:
        raise DataError("bad_header", "WAV with its data before its format")
    if len(format) < 16:
        raise DataError("truncated_audio", f"WAV whose format chunk has {len(format)} bytes")
    order = ">" if big else "<"
    code, channels = (int(value) for value in np.frombuffer(format, order + "u2", 2))
    rate = int(np.frombuffer(format, order + "u4", 1, 4)[0])
    block, bits = (int(value) for value in np.frombuffer(format, order + "u2", 2, 12))
    if code == EXTENSIBLE and len(format) >= 40 and format[26:40] == _EXTENSION_GUID:
        code = int(np.frombuffer(format, order + "u2", 1, 24)[0])
    if channels < 1 or rate < 1:
        raise DataError("bad_header", f"WAV of {channels} channels at {rate} Hz")
    if code in (PCM, FLOAT) and block % channels == 0 and 8 * (block // channels) >= bits > 0:
        bits = 8 * (block // channels)  # 20 bits are stored in 3 bytes, at their upper end
    width = channels * (bits // 8)
    return WavHeader(
        code=code,
        channels=channels,
        sample_rate=rate,
        bits=bits,
        offset=offset,
        samples=size // width if width else 0,
        big=big,
    )


def read(data: bytes, header: WavHeader, start: int, stop: int) -> Wave:
    """Samples start <= i < stop: float32 [n, channels], integers scaled to -1..1 by their full range.

    Bit-equal to libsndfile for all but 64-bit integers, which it does not read.
    """
    convert, dtype = _CONVERT[header.code, header.bits]
    place = header.offset + start * header.channels * header.bits // 8
    values = convert(data, (">" if header.big else "<") + dtype, (stop - start) * header.channels, place)
    return values.reshape(-1, header.channels)


@dataclass(frozen=True, slots=True)
class Wav:
    """Plain samples, to be read in blocks."""

    data: bytes
    header: WavHeader
    format: ClassVar[str] = "wav"

    @property
    def sample_rate(self) -> int:
        return self.header.sample_rate

    @property
    def channels(self) -> int:
        return self.header.channels

    @property
    def samples(self) -> int:
        return self.header.samples

    @property
    def floating(self) -> bool:
        return self.header.code == FLOAT

    def blocks(self, *, mono: bool, first: int = 0, last: int | None = None) -> Iterator[Wave]:
        """Samples first <= i < last: float32 [n] as the mean of channels, or [channels, n]."""
        last = self.samples if last is None else min(last, self.samples)
        block = max(1, _BLOCK // self.channels)
        for start in range(first, last, block):
            values = read(self.data, self.header, start, min(start + block, last))
            if not mono:
                yield values.T
                continue
            mean = values[:, 0]  # a matrix product would wake the threads of a BLAS
            if self.channels > 1:
                mean = mean.copy()
                for channel in values.T[1:]:
                    mean += channel
                mean *= np.float32(1 / self.channels)
            yield mean


def _integers(data: bytes, dtype: str, count: int, offset: int) -> Wave:
    values = np.frombuffer(data, dtype, count, offset).astype(np.float32)
    values *= np.float32(2.0 ** (1 - 8 * np.dtype(dtype).itemsize))
    return values


def _bytes(data: bytes, dtype: str, count: int, offset: int) -> Wave:
    """8-bit samples have no sign: silence is 128."""
    return (np.frombuffer(data, dtype, count, offset).astype(np.float32) - np.float32(128)) / np.float32(128)


def _three_bytes(data: bytes, dtype: str, count: int, offset: int) -> Wave:
    """Each as the upper three bytes of a 32-bit integer that is read with the byte before it, of which there is one:
    the header."""
    overlapping: npt.NDArray[np.int32] = np.ndarray((count,), dtype, data, offset - 1, (3,))
    upper = overlapping & -256 if dtype[0] == "<" else overlapping << 8
    values = upper.astype(np.float32)
    values *= np.float32(2.0**-31)
    return values


def _wide_integers(data: bytes, dtype: str, count: int, offset: int) -> Wave:
    return (np.frombuffer(data, dtype, count, offset) * 2.0**-63).astype(np.float32)


def _floats(data: bytes, dtype: str, count: int, offset: int) -> Wave:
    return np.frombuffer(data, dtype, count, offset).astype(np.float32)


def _alaw(data: bytes, dtype: str, count: int, offset: int) -> Wave:
    """ITU-T G.711: sign, three bits of exponent, four of mantissa; every second bit inverted."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = code >> 4 & 7, code & 15
    size = np.where(exponent == 0, 16 * mantissa + 8, (16 * mantissa + 264) << np.maximum(exponent - 1, 0))
    meaning = (np.where(code & 0x80, size, -size) / 32768).astype(np.float32)
    return np.take(meaning, np.frombuffer(data, dtype, count, offset))


def _mulaw(data: bytes, dtype: str, count: int, offset: int) -> Wave:
    """ITU-T G.711: all bits inverted; a bias of 132 added before the exponent is taken."""
    code = ~np.arange(256) & 255
    size = ((8 * (code & 15) + 132) << (code >> 4 & 7)) - 132
    meaning = (np.where(code & 0x80, -size, size) / 32768).astype(np.float32)
    return np.take(meaning, np.frombuffer(data, dtype, count, offset))


_CONVERT: dict[tuple[int, int], tuple[Callable[[bytes, str, int, int], Wave], str]] = {
    (PCM, 8): (_bytes, "u1"),
    (PCM, 16): (_integers, "i2"),
    (PCM, 24): (_three_bytes, "i4"),
    (PCM, 32): (_integers, "i4"),
    (PCM, 64): (_wide_integers, "i8"),
    (FLOAT, 32): (_floats, "f4"),
    (FLOAT, 64): (_floats, "f8"),
    (ALAW, 8): (_alaw, "u1"),
    (MULAW, 8): (_mulaw, "u1"),
}
