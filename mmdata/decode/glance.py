"""The header of a picture of a common kind, read in microseconds: what Pillow would say, or nothing.

Most pictures of the web are JPEGs of three or one channels, plain PNGs and lossy WebPs without extras. Of those a few
fields decide all that an index holds. Whatever else a file has (EXIF or XMP, which may turn it; padding; an animation;
a damaged or unusual header) is left to `image.read_header`: `glance` answers None.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, NamedTuple

from mmdata.errors import DataError
from mmdata.native.calls import calls

if TYPE_CHECKING:
    import numpy as np

MAX_PIXELS = 178_956_970
"""Of pictures that a step `probe` accepts unless it is told otherwise: Pillow's limit."""


class Glance(NamedTuple):
    """As `ImageHeader`, of a picture of one frame of 8 bits that lies upright; `mode` is one of L, RGB and RGBA."""

    format: str
    height: int
    width: int
    mode: str


def glance(data: bytes, *, max_pixels: int, whole: bool = True) -> Glance | None:
    """What `image.read_header` says of a picture of at most `max_pixels` pixels, where it is as common as that; None
    says nothing about the picture. Unless `data` is the `whole` file, it is the first bytes of one: then of a kind that
    is told by its last bytes too (a progressive JPEG, PNG, WebP) nothing is said."""
    if data[:3] == b"\xff\xd8\xff":
        plain = _BASELINE.match(data)
        found = _baseline(plain) if plain else _jpeg(data, whole)
    elif not whole:
        return None
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        found = _png(data)
    elif data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8 ":
        found = _webp(data)
    else:
        return None
    return found if found is not None and 1 <= found.height * found.width <= max_pixels else None


_SKIPPED = frozenset((0xC4, 0xDD, 0xFE))
"""Segments that nobody reads for the header: Huffman tables, restart interval, comment."""
_FRAMES = frozenset((0xC0, 0xC1, 0xC2))
_MODES = {1: "L", 3: "RGB"}


_BASELINE = re.compile(
    rb"\xff\xd8"
    rb"\xff\xe0\x00\x10JFIF\0.{9}"
    rb"(?:\xff\xdb(?:\x00\x43[\x00-\x0f].{64}|\x00\x84[\x00-\x0f].{64}[\x00-\x0f].{64})){1,4}"
    rb"\xff[\xc0\xc1]\x00(?:\x11\x08(.{4})\x03.{9}|\x0b\x08(.{4})\x01.{3})"
    rb"(?:\xff\xc4(?:\x00\x1f.{29}|\x00\xb5.{179}|\x01\xa2.{416}|\x00\xd2.{208})){1,4}"
    rb"\xff\xda(?:\x00\x0c.{10}|\x00\x08.{6})",
    re.DOTALL,
)
"""Up to the scan, the segments as libjpeg writes them with the tables of the standard: most JPEGs, in one step. What
`_jpeg` says of such a file is the same."""


def glances(heads: list[bytes], *, max_pixels: int) -> np.ndarray:
    """`glance` of many pictures by their first bytes, of baseline JPEGs alone: int32 [N, 3], the height, the width and
    the components (1 is L, 3 is RGB) of each; zeros where nothing is said."""
    import numpy as np  # one picture is told without

    compiled = calls()
    if compiled is not None:
        return np.frombuffer(compiled.glances(heads, max_pixels), np.int32).reshape(len(heads), 3)
    found = []
    number = int.from_bytes
    for plain in map(_BASELINE.match, heads):
        colour, grey = plain.groups() if plain else (None, None)
        size = number(colour or grey or b"", "big")
        height, width = size >> 16, size & 0xFFFF
        said = 1 <= height * width <= max_pixels
        found.append((height, width, 3 if colour else 1) if said else (0, 0, 0))
    return np.array(found, np.int32).reshape(len(heads), 3)


def _baseline(plain: re.Match[bytes]) -> Glance:
    size = int.from_bytes(plain[1] or plain[2], "big")
    return Glance("jpeg", size >> 16, size & 0xFFFF, "RGB" if plain[1] else "L")


def _jpeg(data: bytes, whole: bool) -> Glance | None:
    """SOI, then segments one after the other up to the first scan (ITU-T T.81, B.1.1), one of them a frame."""
    at, size, progressive = 2, len(data), False
    found = None
    while at + 4 <= size and data[at] == 0xFF:
        marker = data[at + 1]
        length = data[at + 2] << 8 | data[at + 3]
        end = at + 2 + length
        if length < 2 or end > size:
            return None
        if marker == 0xDB:
            if not _tables(data, at + 4, end):
                return None
        elif marker in _FRAMES:
            if found is not None or length < 8 or data[at + 4] != 8 or data[at + 9] not in _MODES:
                return None
            if length != 8 + 3 * data[at + 9]:
                return None
            height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
            found = Glance("jpeg", height, width, _MODES[data[at + 9]])
            progressive = marker == 0xC2
        elif marker == 0xDA:
            if found is not None and progressive:
                if not whole:
                    return None
                from mmdata.decode import jpeg  # with a codec, which most files do not need

                try:
                    jpeg.check_scans(data)
                except DataError:
                    return None
            return found
        elif marker == 0xE0:
            if length < 16 or data[at + 4 : at + 9] != b"JFIF\0":
                return None
        elif marker == 0xE2:
            # Of profiles in pieces Pillow looks at the first byte after their name, so each must have it.
            if length < 16 or data[at + 4 : at + 16] != b"ICC_PROFILE\0":
                return None
        elif marker == 0xEE:
            if length != 14 or data[at + 4 : at + 9] != b"Adobe":
                return None
        elif marker not in _SKIPPED:
            return None
        at = end
    return None


def _tables(data: bytes, at: int, end: int) -> bool:
    """Are these bytes quantization tables, whole ones?"""
    while at < end:
        at += 65 if data[at] < 16 else 129
    return at == end


_PLAIN = {b"gAMA": 4, b"sRGB": 1, b"cHRM": 32, b"pHYs": 9, b"IDAT": None}
"""Chunks of PNGs that tell nothing about size, mode or orientation, by their length where it is fixed."""
_COLOURS = {0: "L", 2: "RGB", 6: "RGBA"}


def _png(data: bytes) -> Glance | None:
    """All chunks up to the end, since one behind the pixels may turn them; the sums of those before the pixels."""
    if data[8:16] != b"\0\0\0\rIHDR" or len(data) < 57 or data[24] != 8 or data[26:28] != b"\0\0" or data[28] > 1:
        return None
    if (mode := _COLOURS.get(data[25])) is None or zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
        return None
    at, pixels = 33, False
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if kind == b"IEND":
            if not pixels or length:
                return None
            return Glance("png", int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"), mode)
        if kind not in _PLAIN or end > len(data) or _PLAIN[kind] not in (None, length):
            return None
        if kind == b"IDAT":
            pixels = True
        elif zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return None
        at = end
    return None


def _webp(data: bytes) -> Glance | None:
    """A lossy picture that is the whole file (RFC 9649, 2.5), with a key frame's header (RFC 6386, 9.1)."""
    size = int.from_bytes(data[16:20], "little")
    if len(data) != 20 + size + (size & 1) or int.from_bytes(data[4:8], "little") + 8 != len(data) or size < 10:
        return None
    tag = int.from_bytes(data[20:23], "little")
    hidden, profile = not tag >> 4 & 1, tag >> 1 & 7
    if tag & 1 or profile > 3 or hidden or tag >> 5 >= size or data[23:26] != b"\x9d\x01\x2a":
        return None
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return Glance("webp", height, width, "RGB")
