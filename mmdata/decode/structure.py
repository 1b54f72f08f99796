"""Whether the containers of PNG, GIF, WebP and ISO pictures are whole: Pillow stops reading at the last pixel it needs
and does not look at the checksums of PNG image data, so what it accepts may still be cut or flipped."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from mmdata.decode import jp2
from mmdata.errors import DataError

# Bytes per value of the TIFF field types that are not one byte.
_TIFF_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def check(data: bytes, format: str) -> None:
    """Raises DataError `truncated_image` or `corrupt_image` when the container of `data` is not whole.

    BMP has no container and is left to its decoder. Bytes after the end are tolerated, as everywhere.
    """
    if format == "png":
        _png(data)
    elif format == "gif":
        gif_frames(data, whole=True)
    elif format == "webp":
        size = 8 + int.from_bytes(data[4:8], "little")
        if size > len(data):
            raise DataError("truncated_image", f"WebP ends after {len(data):,} of {size:,} bytes")
    elif format == "tiff":
        _tiff(data)
    elif format in ("avif", "jp2"):
        _boxes(data, format)
        if format == "jp2":
            jp2.check(data)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each chunk's payload up to and with IEND; ends early where the file does."""
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 8, at + 8 + length
        if kind == b"IEND":
            return
        at += 12 + length


def _png(data: bytes) -> None:
    view = memoryview(data)
    kind = b""
    image: list[memoryview] = []
    for kind, start, end in png_chunks(data):
        if end + 4 > len(data):
            raise DataError("truncated_image", f"PNG ends after {len(data):,} bytes, inside chunk {kind!r}")
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise DataError("corrupt_image", f"PNG chunk {kind!r} at byte {start - 8:,}: CRC mismatch")
        if kind == b"IDAT":
            image.append(view[start:end])
    if kind != b"IEND":
        raise DataError("truncated_image", f"PNG ends after {len(data):,} bytes, without IEND")
    # Pillow leaves rows that never come black: a header that promises more rows than there are goes unnoticed.
    expected = _png_bytes(data)
    actual = _inflated(image, expected)
    if actual < expected:
        raise DataError("truncated_image", f"PNG holds {actual:,} of the {expected:,} bytes that its header promises")


_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7 (PNG specification, section 8.2): first row, first column, row step, column step of each pass.
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def _png_bytes(data: bytes) -> int:
    """Size of the filtered scanlines that IHDR announces: one filter byte and the packed pixels for each row."""
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    depth = bits * _PNG_CHANNELS.get(colour, 1)
    total = 0
    for top, left, down, right in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        rows, columns = -(-max(0, height - top) // down), -(-max(0, width - left) // right)
        total += rows * (1 + -(-columns * depth // 8)) if columns else 0
    return total


def _inflated(pieces: list[memoryview], enough: int) -> int:
    """How many bytes the zlib stream in `pieces` gives, counted up to `enough`, in bounded memory."""
    stream = zlib.decompressobj()
    total = 0
    try:
        for piece in pieces:
            rest: bytes | memoryview = piece
            while rest and total < enough and not stream.eof:
                total += len(stream.decompress(rest, 1 << 20))
                rest = stream.unconsumed_tail
        while total < enough and not stream.eof and (more := stream.decompress(b"", 1 << 20)):
            total += len(more)
    except zlib.error as error:
        raise DataError("corrupt_image", f"PNG image data: {error}") from error
    return total


def gif_frames(data: bytes, *, whole: bool) -> int:
    """The number of frames in a GIF. With `whole`, raises DataError `truncated_image` when the trailer is missing;
    without, counts those that begin within `data`."""
    try:
        at = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
        frames = 0
        while True:
            block = data[at]
            if block == 0x3B:
                return frames
            if block == 0x21:
                at = _sub_blocks(data, at + 2)
            elif block == 0x2C:
                flags = data[at + 9]
                frames += 1
                at = _sub_blocks(data, at + 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0))
            else:
                at += 1  # Stray bytes between blocks: every reader skips them.
    except IndexError:
        if whole:
            raise DataError("truncated_image", f"GIF ends after {len(data):,} bytes, without its trailer") from None
        return frames


def _sub_blocks(data: bytes, at: int) -> int:
    while size := data[at]:
        at += 1 + size
    return at + 1


def _tiff(data: bytes) -> None:
    """Every directory, and every value that a directory points to, must lie within the file."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\x00", b"\x00+")
    word, count, entry = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + word, data, 8 if big else 4)
        while at and at not in seen:
            seen.add(at)
            (entries,) = struct.unpack_from(order + count, data, at)
            at += struct.calcsize(order + count)
            for _ in range(entries):
                _, kind, number, value = struct.unpack_from(order + entry, data, at)
                at += struct.calcsize(order + entry)
                size = number * _TIFF_SIZES.get(kind, 1)
                if size > len(value) and struct.unpack(order + word, value)[0] + size > len(data):
                    raise DataError(
                        "truncated_image", f"TIFF ends after {len(data):,} bytes, inside a directory's values"
                    )
            (at,) = struct.unpack_from(order + word, data, at)
    except struct.error:
        raise DataError("truncated_image", f"TIFF ends after {len(data):,} bytes, inside a directory") from None


def _boxes(data: bytes, format: str) -> None:
    """Top-level boxes must lie within the file; a box of size 0 reaches to its end."""
    at = 0
    if data[:4] == b"\xff\x4f\xff\x51":
        at = len(data)  # A bare JPEG 2000 code stream has no boxes.
    while at + 8 <= len(data):
        size, header = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if size == 0:
            break
        if size < header or not data[at + 4 : at + 8].isascii():
            return  # Trailing bytes that are no box.
        at += size
    if at > len(data):
        raise DataError("truncated_image", f"{format} ends after {len(data):,} of {at:,} bytes")
    if format == "jp2" and b"\xff\xd9" not in data[-64:]:
        raise DataError("truncated_image", "JPEG 2000 code stream without its end marker")
