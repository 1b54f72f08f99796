"""JPEG by our kernel or through libjpeg-turbo (simplejpeg): exact or DCT-scaled pixels, and which warnings mean damage.

The kernel reads plain files without a fault, baseline and progressive. Whatever it does not read is libjpeg-turbo's,
to the same pixels.

libjpeg goes on after most damage and only warns, and TurboJPEG reports the *first* warning alone. Some first warnings
are harmless (an odd JFIF version, padding between segments) and may hide a harmful one behind them, so the file is
then decoded again from a copy whose header gives no cause for them; what still warns is damage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg

from mmdata.errors import DataError
from mmdata.native import jpeg as native

Pixels = npt.NDArray[np.uint8]

_HARMLESS = re.compile(
    r"extraneous bytes before marker|unknown Adobe color transform|unknown JFIF revision|bad ICC marker"
    r"|Invalid SOS parameters for sequential JPEG",
    re.I,
)
# Bytes between the last coefficient and the end marker: padding that many cameras and web servers leave.
_PADDED_END = re.compile(r"extraneous bytes before marker 0xd9")
_TRUNCATED = re.compile(r"premature end of (?:JPEG file|input file)|Empty input file|reads? past end", re.I)
_UNSUPPORTED = re.compile(
    r"Unsupported JPEG (?:process|data precision)|not (?:implemented|supported)|subsampling", re.I
)
_CHANNELS = {"RGB": 3, "RGBX": 4}
"""Of what the kernel writes."""
# A progressive file may repeat scans without end; libjpeg's own fuzzers and browsers stop at a few hundred.
MAX_SCANS = 500


@dataclass(frozen=True, slots=True)
class Layout:
    """Stored (not upright) size, colour space (`Gray`, `YCbCr`, `RGB`, `CMYK`, `YCCK`) and chroma subsampling."""

    height: int
    width: int
    colorspace: str
    subsampling: str


def layout(data: bytes) -> Layout:
    """Raises DataError `bad_header` or `unsupported_format` where libjpeg-turbo cannot tell."""
    try:
        return Layout(*simplejpeg.decode_jpeg_header(data, strict=False))
    except ValueError as error:
        raise _failure(str(error), "bad_header") from error
    except KeyError as error:  # What simplejpeg does with a sampling it has no name for.
        raise DataError("unsupported_format", "unknown chroma subsampling") from error


def decode(data: bytes, *, colorspace: str = "RGB", factor: int = 1) -> Pixels:
    """Stored pixels uint8 [ceil(H/factor), ceil(W/factor), channels], not yet upright.

    `factor` 2, 4 or 8 decodes in the DCT domain. Every factor reads every coefficient, so that a damaged file fails at
    1/8 scale exactly when it fails at full scale. Raises DataError `truncated_image`, `corrupt_image`,
    `unsupported_format` or `decoder_memory`.
    """
    if colorspace in _CHANNELS:
        try:
            plain = native.pixels(data, _CHANNELS[colorspace], factor)
        except MemoryError as error:
            raise DataError("decoder_memory", "not enough memory for the pixels of this JPEG") from error
        if plain is not None:
            return plain
    try:
        return _decode(data, colorspace, factor, strict=True)
    except ValueError as error:
        if not _HARMLESS.search(str(error)):
            raise _failure(str(error), "corrupt_image") from error
    clean = plain_header(data)
    try:
        return _decode(clean, colorspace, factor, strict=True)
    except ValueError as error:
        if not _PADDED_END.search(str(error)):
            raise _failure(str(error), "corrupt_image") from error
    return _decode(clean, colorspace, factor, strict=False)


def check(data: bytes) -> bool:
    """Whether the kernel finds a file whole: then nothing that `decode` raises is to be expected. What it does not read
    is neither whole nor damaged before `decode` has seen it."""
    return native.whole(data)


def _decode(data: bytes, colorspace: str, factor: int, *, strict: bool) -> Pixels:
    try:
        if factor == 1:
            pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace, strict=strict)
            return pixels
        stored = layout(data)
        smaller = {"min_height": -(-stored.height // factor), "min_width": -(-stored.width // factor)}
        scaled: Pixels = simplejpeg.decode_jpeg(data, colorspace, **smaller, strict=strict)
        return scaled
    except MemoryError as error:
        raise DataError("decoder_memory", "not enough memory for the pixels of this JPEG") from error


def _failure(message: str, otherwise: str) -> DataError:
    if _TRUNCATED.search(message):
        return DataError("truncated_image", message)
    return DataError("unsupported_format" if _UNSUPPORTED.search(message) else otherwise, message)


def plain_header(data: bytes) -> bytes:
    """The same picture with only the segments that its pixels need, well-formed, and nothing between them.

    Comments, EXIF, ICC and other APPn segments go; JFIF and Adobe stay, for they decide the colour space, with the
    version and transform that libjpeg would assume anyway. Everything from the first scan's data on is left alone.
    Returns `data` itself when its markers cannot be followed.
    """
    kept = [bytearray(b"\xff\xd8")]
    at, components, sequential = 2, 3, True
    adobe = bytearray(16)
    while True:
        at = data.find(b"\xff", at)
        while at >= 0 and data[at : at + 2] == b"\xff\xff":
            at += 1
        if at < 0 or at + 4 > len(data):
            return data
        marker = data[at + 1]
        if marker == 0 or marker == 1 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xD9 or end > len(data) or end < at + 4:
            return data
        segment = bytearray(data[at:end])
        at = end
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(segment) > 9:
            components, sequential = segment[9], marker in (0xC0, 0xC1, 0xC9)
        elif marker == 0xE0 and segment[4:9] == b"JFIF\0" and len(segment) >= 11:
            segment[9:11] = b"\x01\x01"
        elif marker == 0xEE and segment[4:9] == b"Adobe" and len(segment) >= 16:
            adobe = segment
        elif marker == 0xDA:
            if sequential and len(segment) >= 5 and len(segment) == 8 + 2 * segment[4]:
                segment[-3:] = b"\x00\x3f\x00"
            if adobe[15] > 2:  # Known only now: the number of components often comes after the Adobe segment.
                adobe[15] = 2 if components == 4 else 1
            return b"".join([*kept, segment, data[end:]])
        elif marker == 0xFE or 0xE0 <= marker <= 0xEF:
            continue
        kept.append(segment)


def check_scans(data: bytes) -> None:
    """Raises DataError `corrupt_image` for a progressive file with so many scans that it can only be an attack."""
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise DataError("corrupt_image", f"JPEG with more than {MAX_SCANS} scans")


def encode(pixels: Pixels, quality: int, subsampling: str) -> bytes:
    """A baseline JPEG of uint8 [H, W, 3] (RGB) or [H, W] (grey)."""
    if pixels.ndim == 2:
        grey: bytes = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels)[..., None], quality=quality, colorspace="GRAY", colorsubsampling="Gray"
        )
        return grey
    coded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=quality, colorsubsampling=subsampling)
    return coded
