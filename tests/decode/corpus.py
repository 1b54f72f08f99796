"""Malformed pictures, made of real ones: cut, flipped, swapped, announced larger than they are. Run as a program, it
decodes them all and prints what became of them, and how much memory and time that took."""

from __future__ import annotations

import json
import random
import resource
import struct
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from mmdata.decode import image
from mmdata.decode.planned import decode_for
from mmdata.errors import DataError
from mmdata.types import Resize

from .pictures import SKIMAGE, SKLEARN, frames, photo, save

MAX_PIXELS = 1_000_000
ROOM = 600_000_000
"""Bytes of address space beyond what the process has when it starts to decode."""


@cache
def whole() -> dict[str, bytes]:
    """Real photographs, each format at the size of tens of kilobytes, and small files of the odd kinds."""
    real, first = photo(420, 310), frames(4)
    return {
        "jpeg": (SKLEARN / "flower.jpg").read_bytes(),
        "jpeg progressive": save(real, "JPEG", quality=95, progressive=True),
        "jpeg cmyk": save(real.convert("CMYK"), "JPEG", quality=90),
        "png": (SKIMAGE / "coins.png").read_bytes(),
        "png palette": save(real.quantize(64), "PNG"),
        "apng": save(first[0], "PNG", save_all=True, append_images=first[1:], duration=40),
        "gif": save(real.quantize(64), "GIF"),
        "gif animated": save(first[0], "GIF", save_all=True, append_images=first[1:], duration=40),
        "webp": save(real, "WEBP", quality=95),
        "webp lossless": save(photo(200, 150), "WEBP", lossless=True),
        "webp animated": save(first[0], "WEBP", save_all=True, append_images=first[1:], duration=40),
        "tiff": save(photo(200, 150), "TIFF", compression="tiff_lzw"),
        "tiff jpeg": save(real, "TIFF", compression="jpeg"),
        "tiff deflate": save(photo(200, 150), "TIFF", compression="tiff_adobe_deflate"),
        "bmp": save(photo(200, 150), "BMP"),
        "avif": save(real, "AVIF", quality=90),
        "jp2": save(photo(200, 150), "JPEG2000"),
        "j2k": save(photo(200, 150), "JPEG2000", no_jp2=True),
    }


def cuts() -> Iterator[tuple[str, bytes]]:
    """Every file at every kilobyte, and within its header."""
    for name, data in whole().items():
        for stop in [*range(0, 64, 3), *range(1024, len(data), 1024)]:
            yield f"{name} cut at {stop}", data[:stop]


def flips() -> Iterator[tuple[str, bytes]]:
    """Single bytes of the header one by one, then some anywhere."""
    for name, data in whole().items():
        chance = random.Random(name)
        places = [*range(8, 40), *(chance.randrange(40, len(data)) for _ in range(12))]
        for at in places:
            yield f"{name} flipped at {at}", data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :]


def swaps() -> Iterator[tuple[str, bytes]]:
    """The beginning of one format before the rest of another, and beginnings before nothing or noise."""
    files = whole()
    chance = random.Random("swaps")
    for name, data in files.items():
        other = files[chance.choice([key for key in files if key != name])]
        yield f"{name} with a foreign rest", data[:16] + other[16:]
        yield f"{name} with a foreign beginning", other[:16] + data[16:]
        yield f"{name} before noise", data[:32] + chance.randbytes(4000)
        yield f"{name} before zeros", data[:32] + bytes(4000)
        yield f"{name} twice", data[: len(data) // 2] + data
    yield "nothing", b""
    for size in (1, 2, 3, 7, 11, 12, 100):
        yield f"{size} zeros", bytes(size)
        yield f"{size} ones", b"\xff" * size


@cache
def _zeros() -> bytes:
    """Two hundred megabytes of zeros, deflated."""
    stream = zlib.compressobj(1)
    return b"".join([*(stream.compress(bytes(1_000_000)) for _ in range(200)), stream.flush()])


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def _png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + _chunk(b"IEND", b"")


def _tiff(**tags: tuple[int, int, int]) -> bytes:
    """A TIFF whose only directory holds these (tag, type, value) beside one strip of a hundred bytes."""
    entries = {
        256: (4, 10),
        257: (4, 10),
        258: (3, 8),
        259: (3, 1),
        262: (3, 1),
        273: (4, 8),
        278: (4, 10),
        279: (4, 100),
    }
    entries |= {tag: (kind, value) for tag, kind, value in tags.values()}
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(entries.items()))
    return b"II*\0" + struct.pack("<I", 108) + bytes(100) + struct.pack("<H", len(entries)) + body + bytes(4)


def _precincts(data: bytes, exponents: int) -> bytes:
    """A JPEG 2000 code stream that announces precincts of 2^low by 2^high samples in all resolutions."""
    at = data.index(b"\xff\x52")
    size = int.from_bytes(data[at + 2 : at + 4], "big")
    style = bytearray(data[at + 4 : at + 2 + size])
    style[0] |= 1
    style = style[:10] + bytes([exponents] * (style[5] + 1))
    return data[: at + 2] + struct.pack(">H", len(style) + 2) + bytes(style) + data[at + 2 + size :]


def absurd() -> Iterator[tuple[str, bytes]]:
    """Headers that announce what cannot be, or what would not fit into memory."""
    pixels = zlib.compress(bytes(30 * 31))
    zeros = _zeros()
    for width, height in ((0, 5), (5, 0), (2**31 - 1, 1), (2**32 - 1, 2**32 - 1), (60_000, 60_000), (1, 2**31)):
        yield f"png {width} x {height}", _png(width, height, _chunk(b"IDAT", pixels))
    for depth, colour in ((3, 2), (16, 3), (8, 5), (255, 255)):
        yield f"png depth {depth} colour {colour}", _png(10, 31, _chunk(b"IDAT", pixels), depth=depth, colour=colour)
    yield "png whose data never ends", _png(10, 31, _chunk(b"IDAT", zeros))
    yield "png whose text never ends", _png(10, 31, _chunk(b"zTXt", b"a\0\0" + zeros), _chunk(b"IDAT", pixels))
    yield (
        "png whose other text never ends",
        _png(10, 31, _chunk(b"iTXt", b"a\0\1\0\0\0" + zeros), _chunk(b"IDAT", pixels)),
    )
    yield "png whose profile never ends", _png(10, 31, _chunk(b"iCCP", b"a\0\0" + zeros), _chunk(b"IDAT", pixels))
    yield "png with a chunk of 4 GB", b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xff" + b"IHDR" + bytes(100)
    yield "png of many chunks", _png(10, 31, _chunk(b"tEXt", b"a\0b") * 10_000, _chunk(b"IDAT", pixels))
    control = struct.pack(">IIIIIHHBB", 0, 50_000, 50_000, 0, 0, 1, 1, 0, 0)
    yield (
        "apng with a large frame",
        _png(
            10, 31, _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), _chunk(b"fcTL", control), _chunk(b"IDAT", pixels)
        ),
    )
    jpeg = save(photo(64, 48), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    for height, width in ((0, 64), (48, 0), (65_535, 65_535), (65_535, 1), (1, 65_535)):
        yield f"jpeg {width} x {height}", jpeg[: frame + 5] + struct.pack(">HH", height, width) + jpeg[frame + 9 :]
    for components in (0, 1, 2, 4, 5, 255):
        yield f"jpeg of {components} components", jpeg[: frame + 9] + bytes([components]) + jpeg[frame + 10 :]
    for sampling in (0x00, 0xFF, 0x41, 0x33):
        yield f"jpeg sampled {sampling:x}", jpeg[: frame + 11] + bytes([sampling]) + jpeg[frame + 12 :]
    yield "jpeg of segments", jpeg[:2] + b"\xff\xe1\xff\xff" + bytes(65_533) + b"\xff\xfe\0\2" * 30_000 + jpeg[2:]
    directory = b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 65_535, 0x112, 3, 2**32 - 1, 6)
    yield "jpeg with absurd exif", jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(directory) + 2) + directory + jpeg[2:]
    gif = save(photo(64, 48).quantize(4), "GIF")
    yield "gif 65535 x 65535", gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    yield (
        "gif with a large frame",
        gif.replace(struct.pack("<HHHH", 0, 0, 64, 48), struct.pack("<HHHH", 9, 9, 65_535, 65_535)),
    )
    yield "gif of comments", gif[:-1] + b"\x21\xfe\1a\0" * 50_000 + b";"
    bmp = save(photo(64, 48), "BMP")
    for width, height in ((-64, 48), (2**31 - 1, 2**31 - 1), (64, -(2**31)), (0, 0)):
        yield f"bmp {width} x {height}", bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
    for bits, compression in ((0, 0), (1, 0), (65_535, 0), (24, 1), (8, 2), (32, 3), (24, 99)):
        yield f"bmp of {bits} bits, packed {compression}", bmp[:28] + struct.pack("<HI", bits, compression) + bmp[34:]
    yield "bmp of many colours", bmp[:28] + struct.pack("<H", 8) + bmp[30:46] + struct.pack("<I", 2**31) + bmp[50:]
    yield "tiff 50000 x 50000", _tiff(width=(256, 4, 50_000), height=(257, 4, 50_000))
    yield "tiff of negative size", _tiff(width=(256, 9, 2**32 - 5))
    for compression in (2, 5, 6, 7, 8, 32_773, 34_712, 50_000, 65_000):
        yield f"tiff packed {compression}", _tiff(packed=(259, 3, compression))
    for bits in (0, 1, 12, 64, 65_535):
        yield f"tiff of {bits} bits", _tiff(bits=(258, 3, bits))
    yield "tiff of many samples", _tiff(samples=(277, 3, 65_535))
    yield "tiff of large tiles", _tiff(w=(322, 4, 2**31), h=(323, 4, 2**31), at=(324, 4, 8), n=(325, 4, 100))
    yield "tiff with a strip far away", _tiff(at=(273, 4, 2**32 - 1), n=(279, 4, 2**32 - 1))
    yield "tiff that is its own next page", _tiff()[:-4] + struct.pack("<I", 108)
    yield (
        "tiff of many entries",
        b"II*\0" + struct.pack("<IH", 8, 9_000) + struct.pack("<HHII", 700, 7, 2**31, 8) * 9_000,
    )
    webp = whole()["webp animated"]
    at = webp.index(b"VP8X") + 12
    yield "webp 16M x 16M", webp[:at] + b"\xff" * 6 + webp[at + 6 :]
    frame = webp.index(b"ANMF") + 14
    yield "webp with a large frame", webp[:frame] + b"\xff\x3f\0\xff\x3f\0" + webp[frame + 6 :]
    still = whole()["webp"]
    yield "webp of 16383 x 16383", still[:26] + b"\xff\x3f\xff\x3f" + still[30:]
    yield "webp of 4 GB", still[:4] + b"\xff\xff\xff\xff" + still[8:]
    jp2 = whole()["j2k"]
    for name, sizes in {
        "large": (50_000, 50_000, 0, 0, 50_000, 50_000, 0, 0),
        "in tiles of one pixel": (200, 150, 0, 0, 1, 1, 0, 0),
        "before its beginning": (200, 150, 201, 151, 200, 150, 0, 0),
        "in tiles of nothing": (200, 150, 0, 0, 0, 0, 0, 0),
        "of 4 billion": (2**32 - 1, 2**32 - 1, 0, 0, 2**32 - 1, 2**32 - 1, 0, 0),
    }.items():
        yield f"jpeg 2000 {name}", jp2[:8] + struct.pack(">8I", *sizes) + jp2[40:]
    large = save(photo(1000, 1000), "JPEG2000", no_jp2=True)
    for exponents in (0x00, 0x11, 0x22, 0x44, 0x1F, 0xF1):
        yield (
            f"jpeg 2000 in precincts {exponents:x}",
            _precincts(large, exponents),
        )
    style = jp2.index(b"\xff\x52")
    yield "jpeg 2000 of many layers", jp2[: style + 6] + b"\xff\xff" + jp2[style + 8 :]
    yield "jpeg 2000 of many levels", jp2[: style + 9] + b"\x20" + jp2[style + 10 :]
    yield "jpeg 2000 of many components", jp2[:40] + struct.pack(">H", 16_384) + jp2[42:]
    avif = whole()["avif"]
    ispe = avif.index(b"ispe") + 8
    for size in (0, 1, 65_535, 2**31 - 1, 2**32 - 1):
        yield f"avif of {size}", avif[:ispe] + struct.pack(">II", size, size) + avif[ispe + 8 :]
    for box in (b"meta", b"iprp", b"iloc", b"mdat", b"pitm"):
        start = avif.index(box) - 4
        for size in (0, 1, 7, 2**31, 2**32 - 1):
            yield f"avif whose {box.decode()} has {size}", avif[:start] + struct.pack(">I", size) + avif[start + 4 :]


def outcome(data: bytes) -> str:
    """`ok`, or the reasons of reading the header, decoding and verifying, which have to agree on what is whole."""
    reasons = []
    for call in (image.decode, image.verify):
        try:
            pixels = call(data, max_pixels=MAX_PIXELS)
        except DataError as error:
            reasons.append(error.reason)
        else:
            reasons.append("ok")
            if pixels is not None:
                assert isinstance(pixels, np.ndarray)
                assert pixels.dtype == np.uint8
                assert 0 < pixels.size <= 3 * MAX_PIXELS, pixels.shape
    if data[:2] == b"\xff\xd8":
        try:
            decode_for(data, [Resize(8, 8)], fidelity="fast", max_pixels=MAX_PIXELS)
        except DataError:
            assert reasons[0] != "ok", reasons
        else:
            assert reasons[0] == "ok", reasons
    # What verifies also decodes. (Of an animation only the first frame is decoded, so that the reverse is not true.)
    assert reasons[1] != "ok" or reasons[0] == "ok", reasons
    return reasons[0]


def peak() -> float:
    """The most memory that this process has had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    warnings.simplefilter("ignore")
    _zeros()
    for data in whole().values():  # Every codec is loaded before memory is counted.
        assert outcome(data) == "ok"
    before = peak()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    result: dict[str, object] = {}
    for kind in (cuts, flips, swaps, absurd):
        reasons: Counter[str] = Counter()
        odd, slowest = [], (0.0, "")
        for name, data in kind():
            start = time.process_time()
            try:
                reasons[outcome(data)] += 1
            except BaseException as error:
                odd.append(f"{name}: {type(error).__name__}: {error}")
            slowest = max(slowest, (time.process_time() - start, name))
        result[kind.__name__] = {"reasons": reasons, "odd": odd, "slowest": slowest, "grown": peak() - before}
    json.dump(result, sys.stdout, indent=1)


if __name__ == "__main__":
    Image.init()
    main()
