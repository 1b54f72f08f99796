"""What goes wrong with image files on the web: byte-level faults and odd but honest files, as pure functions.

Each takes the bytes of a good JPEG and a generator, and gives the bytes to be served. `CATALOGUE` names them all,
with the ledger's state and reason that a build with full verification must give them.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmdata.types import State

Damaging = Callable[[bytes, np.random.Generator], bytes]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
BOMB_SIDE = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One kind: how it is made, the suffix under which the web would serve it, and how it must end. `state` `ok`
    has the empty reason: such files look odd and are to be kept."""

    kind: str
    make: Damaging
    suffix: str = ".jpg"
    state: State = "failed_permanent"
    reason: str = ""


def _open(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def _save(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def jpeg_scan(data: bytes) -> int:
    """Where a JPEG's entropy-coded data begin: just behind the header of its first scan (SOS). Raises ValueError.

    Walks the marker segments (ITU-T T.81, B.1.1): two bytes of marker, two of length that count themselves.

    >>> jpeg_scan(b"\\xff\\xd8\\xff\\xe0\\x00\\x04ab\\xff\\xda\\x00\\x03cDATA")
    13
    """
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        at += 2 + length
        if marker == 0xDA:
            return at
    raise ValueError("no scan in this JPEG")


def png_chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with its length and CRC (PNG specification, 5.3).

    >>> png_chunk(b"IEND", b"").hex()
    '0000000049454e44ae426082'
    """
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, pixels: bytes, *, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG file whose header says `width` x `height` and whose data are `pixels` (filter bytes included),
    whether or not that is true. `colour` 2 is RGB, 0 grey."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(pixels, 6)) + png_chunk(b"IEND", b"")
    return PNG_SIGNATURE + chunks


# Files cut short or changed.


def truncated_jpeg(data: bytes, random: np.random.Generator) -> bytes:
    """Half to nine tenths of the scan, and no end marker."""
    start = jpeg_scan(data)
    return data[: start + int((len(data) - start) * random.uniform(0.5, 0.9))]


def truncated_png(data: bytes, random: np.random.Generator) -> bytes:
    """Four to nine tenths of a PNG."""
    png = _save(_open(data), "PNG")
    return png[: int(len(png) * random.uniform(0.4, 0.9))]


def truncated_webp(data: bytes, random: np.random.Generator) -> bytes:
    """Four to nine tenths of a WebP; its RIFF header says how much is missing."""
    webp = _save(_open(data), "WEBP", quality=80, method=0)
    return webp[: int(len(webp) * random.uniform(0.4, 0.9))]


def header_only_jpeg(data: bytes, random: np.random.Generator) -> bytes:
    """A JPEG that ends where its scan should begin: its size is known, none of its pixels are."""
    return data[: jpeg_scan(data)]


def corrupt_jpeg(data: bytes, random: np.random.Generator) -> bytes:
    """64 bytes in the middle of the scan overwritten, among them a restart marker where none is due: decoders
    that take warnings lightly paint the rest grey and say nothing."""
    start = jpeg_scan(data)
    at = start + int((len(data) - start) * random.uniform(0.3, 0.6))
    while data[at - 1] == 0xFF:  # what follows would become a marker of its own
        at += 1
    noise = random.integers(0, 255, 62, dtype=np.uint8).tobytes()  # no 0xff: no marker by chance
    return data[:at] + noise[:31] + b"\xff\xd3" + noise[31:] + data[at + 64 :]


def corrupt_png(data: bytes, random: np.random.Generator) -> bytes:
    """One byte of the compressed pixels changed; the chunk's CRC tells."""
    png = bytearray(_save(_open(data), "PNG"))
    at = int(len(png) * random.uniform(0.4, 0.8))
    png[at] ^= 1 + int(random.integers(255))
    return bytes(png)


def _frame(data: bytes) -> tuple[bytearray, int]:
    """A baseline JPEG of the picture, and where the height (then the width) stands in its frame header."""
    file = _save(_open(data), "JPEG", quality=85)
    return bytearray(file), file.index(b"\xff\xc0") + 5  # SOF0: marker, length, precision


def lying_jpeg(data: bytes, random: np.random.Generator) -> bytes:
    """A frame header that says twice the height of what follows."""
    file, at = _frame(data)
    height = int.from_bytes(file[at : at + 2], "big")
    file[at : at + 2] = (2 * height).to_bytes(2, "big")
    return bytes(file)


def lying_png(data: bytes, random: np.random.Generator) -> bytes:
    """A header that says 600 x 600 over the pixels of 600 x 200."""
    picture = _open(data).convert("RGB").resize((600, 200))
    rows = np.asarray(picture).reshape(200, 1800)
    return png_of(600, 600, np.insert(rows, 0, 0, axis=1).tobytes())


def bad_jpeg_header(data: bytes, random: np.random.Generator) -> bytes:
    """A frame header that says 0 pixels wide."""
    file, at = _frame(data)
    file[at + 2 : at + 4] = b"\x00\x00"
    return bytes(file)


def bad_png_header(data: bytes, random: np.random.Generator) -> bytes:
    """A PNG whose IHDR says that it is 0 pixels wide."""
    return png_of(0, 300, random.bytes(2000))


def png_bomb(data: bytes, random: np.random.Generator) -> bytes:
    """About a hundred bytes whose header promises 50,000 x 50,000 pixels."""
    return png_of(BOMB_SIDE, BOMB_SIDE, bytes(10_000) + random.bytes(16))


# Things that are not images.


def html_page(data: bytes, random: np.random.Generator) -> bytes:
    """An error page, as many sites serve it in place of a picture and with status 200."""
    number = int(random.integers(1 << 30))
    page = f"<!DOCTYPE html>\n<html><head><title>Not found</title></head><body>Error {number}</body></html>\n"
    return page.encode()


def svg_drawing(data: bytes, random: np.random.Generator) -> bytes:
    """A drawing, not a picture of pixels."""
    radius = int(random.integers(10, 100))
    drawing = f'<svg xmlns="http://www.w3.org/2000/svg" width="300" height="300"><circle r="{radius}"/></svg>\n'
    return b'<?xml version="1.0"?>\n' + drawing.encode()


def json_error(data: bytes, random: np.random.Generator) -> bytes:
    """What an API says when it has had enough."""
    return json.dumps({"error": "quota exceeded", "request": int(random.integers(1 << 30))}).encode()


def plain_text(data: bytes, random: np.random.Generator) -> bytes:
    """A sentence."""
    return f"This image is no longer here. Reference {int(random.integers(1 << 30))}.\n".encode()


def random_bytes(data: bytes, random: np.random.Generator) -> bytes:
    """Noise; the first byte is zero, so that it is no format's signature by chance."""
    return b"\x00" + random.bytes(5000)


def pdf_file(data: bytes, random: np.random.Generator) -> bytes:
    """A one-page PDF; its number makes it unlike other ones."""
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] >>",
    )
    file = b"%%PDF-1.4\n%% %d\n" % int(random.integers(1 << 30))
    places = []
    for number, text in enumerate(objects, 1):
        places.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, text)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer\n<< /Size 4 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(file)
    return file + b"xref\n0 4\n0000000000 65535 f \n" + table + trailer


def mp4_file(data: bytes, random: np.random.Generator) -> bytes:
    """The boxes that a video begins with (ISO/IEC 14496-12), and noise for frames."""
    brand = b"isom\x00\x00\x02\x00isomiso2avc1mp41"
    frames = random.bytes(5000)
    return b"".join(
        struct.pack(">I", 8 + len(body)) + name + body for name, body in ((b"ftyp", brand), (b"mdat", frames))
    )


# Whole images that are of no use.


def tiny_gif(data: bytes, random: np.random.Generator) -> bytes:
    """The 1 x 1 picture that counts visitors, with a comment of its own so that no two are the same file."""
    dot = Image.new("P", (1, 1), int(random.integers(256)))
    return _save(dot, "GIF", comment=random.bytes(4).hex().encode())


def small_picture(data: bytes, random: np.random.Generator) -> bytes:
    """A thumbnail, at most 48 pixels."""
    picture = _open(data)
    picture.thumbnail((48, 48))
    return _save(picture, "JPEG", quality=80)


def tall_sliver(data: bytes, random: np.random.Generator) -> bytes:
    """1 x 400: a border from the days of tables."""
    return _save(_open(data).resize((1, 400)), "JPEG", quality=80)


def banner(data: bytes, random: np.random.Generator) -> bytes:
    """1800 x 260: large enough on both sides, and seven times as wide as high."""
    return _save(_open(data).resize((1800, 260)), "JPEG", quality=70)


def huge_picture(data: bytes, random: np.random.Generator) -> bytes:
    """3000 x 3000: nine megapixels, more than most pipelines want."""
    return _save(_open(data).resize((3000, 3000), Image.Resampling.BILINEAR), "JPEG", quality=30)


# Odd, but to be kept.


def cmyk_jpeg(data: bytes, random: np.random.Generator) -> bytes:
    """Four inks, stored inverted as Adobe does."""
    return _save(_open(data).convert("CMYK"), "JPEG", quality=85)


def grey_jpeg(data: bytes, random: np.random.Generator) -> bytes:
    """One channel."""
    return _save(_open(data).convert("L"), "JPEG", quality=85)


def rgba_png(data: bytes, random: np.random.Generator) -> bytes:
    """RGB with an alpha that fades a corner."""
    picture = _open(data).convert("RGB")
    alpha = Image.linear_gradient("L").resize(picture.size).point(lambda value: 255 if value > 40 else 6 * value)
    picture.putalpha(alpha)
    return _save(picture, "PNG")


def palette_png(data: bytes, random: np.random.Generator) -> bytes:
    """64 colours and an index per pixel."""
    return _save(_open(data).convert("RGB").quantize(64, Image.Quantize.FASTOCTREE), "PNG")


def grey16_png(data: bytes, random: np.random.Generator) -> bytes:
    """16 bits of grey; the low byte repeats the high one, so that 65,535 is white."""
    grey = np.asarray(_open(data).convert("L"))
    rows = np.repeat(grey, 2, axis=1)  # big-endian samples: high byte, low byte
    return png_of(grey.shape[1], grey.shape[0], np.insert(rows, 0, 0, axis=1).tobytes(), depth=16, colour=0)


def animated_gif(data: bytes, random: np.random.Generator) -> bytes:
    """Three frames, the later ones shifted."""
    first = _open(data).convert("RGB")
    first.thumbnail((420, 420))
    first = first.resize((max(256, first.width), max(256, first.height)))
    frames = [
        first.quantize(64, Image.Quantize.FASTOCTREE),
        *(first.rotate(angle).quantize(64, Image.Quantize.FASTOCTREE) for angle in (5, 10)),
    ]
    return _save(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100, loop=0)


def exif_rotated(data: bytes, random: np.random.Generator) -> bytes:
    """Stored lying on its side; EXIF orientation 6 says to turn it a quarter clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return _save(_open(data).transpose(Image.Transpose.ROTATE_90), "JPEG", quality=85, exif=exif)


def trailing_garbage(data: bytes, random: np.random.Generator) -> bytes:
    """A whole JPEG and some kilobytes behind its end marker, as some cameras and servers append."""
    return data + random.bytes(3000)


# Copies of another record's picture.


def same_bytes(data: bytes, random: np.random.Generator) -> bytes:
    """The very same file under another URL."""
    return data


def same_pixels(data: bytes, random: np.random.Generator) -> bytes:
    """The same picture with a comment segment: other bytes, equal pixels."""
    comment = b"served by cache %d" % int(random.integers(1 << 30))
    return data[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(comment)) + comment + data[2:]


def recompressed(data: bytes, random: np.random.Generator) -> bytes:
    """The same picture at quality 50 to 69."""
    return _save(_open(data), "JPEG", quality=int(random.integers(50, 70)))


def resized(data: bytes, random: np.random.Generator) -> bytes:
    """Six to nine tenths as large (larger by a fifth where it would get below 256), and compressed again."""
    picture = _open(data)
    scale = max(float(random.uniform(0.6, 0.9)), 256 / min(picture.size))
    scale = scale if scale < 1 else 1.2
    size = round(picture.width * scale), round(picture.height * scale)
    return _save(picture.resize(size, Image.Resampling.LANCZOS), "JPEG", quality=80)


CATALOGUE: tuple[Damage, ...] = (
    Damage(kind="truncated_jpeg", make=truncated_jpeg, reason="truncated_image"),
    Damage(kind="truncated_png", make=truncated_png, suffix=".png", reason="truncated_image"),
    Damage(kind="truncated_webp", make=truncated_webp, suffix=".webp", reason="truncated_image"),
    Damage(kind="header_only_jpeg", make=header_only_jpeg, reason="truncated_image"),
    Damage(kind="corrupt_jpeg", make=corrupt_jpeg, reason="corrupt_image"),
    Damage(kind="corrupt_png", make=corrupt_png, suffix=".png", reason="corrupt_image"),
    Damage(kind="lying_jpeg", make=lying_jpeg, reason="corrupt_image"),
    Damage(kind="lying_png", make=lying_png, suffix=".png", reason="truncated_image"),
    Damage(kind="bad_jpeg_header", make=bad_jpeg_header, reason="bad_header"),
    Damage(kind="bad_png_header", make=bad_png_header, suffix=".png", reason="bad_header"),
    Damage(kind="png_bomb", make=png_bomb, suffix=".png", reason="decompression_bomb"),
    Damage(kind="html_page", make=html_page, reason="html_not_image"),
    Damage(kind="svg_drawing", make=svg_drawing, suffix=".svg", reason="unsupported_format"),
    Damage(kind="json_error", make=json_error, reason="not_an_image"),
    Damage(kind="plain_text", make=plain_text, reason="not_an_image"),
    Damage(kind="random_bytes", make=random_bytes, reason="not_an_image"),
    Damage(kind="pdf_file", make=pdf_file, suffix=".pdf", reason="not_an_image"),
    Damage(kind="mp4_file", make=mp4_file, reason="not_an_image"),
    Damage(kind="tiny_gif", make=tiny_gif, suffix=".gif", state="filtered", reason="min_side"),
    Damage(kind="small_picture", make=small_picture, state="filtered", reason="min_side"),
    Damage(kind="tall_sliver", make=tall_sliver, state="filtered", reason="min_side"),
    Damage(kind="banner", make=banner, state="filtered", reason="aspect"),
    Damage(kind="huge_picture", make=huge_picture, state="filtered", reason="max_pixels"),
    Damage(kind="cmyk_jpeg", make=cmyk_jpeg, state="ok"),
    Damage(kind="grey_jpeg", make=grey_jpeg, state="ok"),
    Damage(kind="rgba_png", make=rgba_png, suffix=".png", state="ok"),
    Damage(kind="palette_png", make=palette_png, suffix=".png", state="ok"),
    Damage(kind="grey16_png", make=grey16_png, suffix=".png", state="ok"),
    Damage(kind="animated_gif", make=animated_gif, suffix=".gif", state="ok"),
    Damage(kind="exif_rotated", make=exif_rotated, state="ok"),
    Damage(kind="trailing_garbage", make=trailing_garbage, state="ok"),
    Damage(kind="same_bytes", make=same_bytes, state="duplicate", reason="exact_dup"),
    Damage(kind="same_pixels", make=same_pixels, state="duplicate", reason="exact_dup"),
    Damage(kind="recompressed", make=recompressed, state="duplicate", reason="near_dup"),
    Damage(kind="resized", make=resized, state="duplicate", reason="near_dup"),
)
