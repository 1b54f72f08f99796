"""The catalogue of damaged files, judged by Pillow, simplejpeg and zlib: each file is broken, or whole, as it says."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from itertools import islice

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from mmdata.rng import generator
from mmdata.testing import damage
from mmdata.testing.damage import CATALOGUE, Damage
from mmdata.testing.photos import phash, variants

# Small ones: each is encoded again some thirty times.
JPEGS = [v.data for v in islice((v for v in variants(40) if v.format == "jpeg" and v.width * v.height < 150_000), 2)]
BY_KIND = {kind.kind: kind for kind in CATALOGUE}


def make(kind: str, at: int = 0) -> bytes:
    return BY_KIND[kind].make(JPEGS[at], generator(0, kind, at))


def pixels(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def is_whole(data: bytes) -> bool:
    """By the strictest reading at hand: libjpeg's warnings count, and a PNG must inflate to its header's size."""
    try:
        picture = pixels(data)
        if data.startswith(b"\xff\xd8"):
            simplejpeg.decode_jpeg(data)
        if picture.format == "PNG":
            return png_is_whole(data, picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


def png_is_whole(data: bytes, picture: Image.Image) -> bool:
    at, packed = 8, b""
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if zlib.crc32(name + body) != int.from_bytes(data[at + 8 + length : at + 12 + length], "big"):
            return False
        packed += body if name == b"IDAT" else b""
        at += 12 + length
    depth, colour = data[24], data[25]
    bits = picture.width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    return len(zlib.decompress(packed)) == picture.height * (1 + (bits + 7) // 8)


@pytest.mark.parametrize("kind", CATALOGUE, ids=lambda kind: kind.kind)
def test_each_kind_is_what_it_says(kind: Damage) -> None:
    for at in range(len(JPEGS)):
        data = make(kind.kind, at)
        assert data == make(kind.kind, at), "a function of its arguments"
        assert is_whole(data) == (kind.state != "failed_permanent")
    # A copy of one picture is another file each time only where it says so; all else must not be exact duplicates.
    if kind.state == "failed_permanent" and kind.kind not in ("header_only_jpeg", "bad_jpeg_header"):
        assert kind.make(JPEGS[0], generator(1)) != kind.make(JPEGS[0], generator(2)) or kind.kind.startswith("lying")


def test_kinds_are_named_once_and_have_reasons() -> None:
    assert len(BY_KIND) == len(CATALOGUE) >= 30
    for kind in CATALOGUE:
        assert (kind.reason == "") == (kind.state == "ok")
        assert kind.make.__name__ == kind.kind
        assert kind.make.__doc__


@pytest.mark.parametrize(
    ("kind", "magic"),
    [
        ("truncated_jpeg", b"\xff\xd8\xff\xe0"),
        ("header_only_jpeg", b"\xff\xd8\xff\xe0"),
        ("truncated_png", b"\x89PNG"),
        ("truncated_webp", b"RIFF"),
    ],
)
def test_cut_files_begin_like_whole_ones(kind: str, magic: bytes) -> None:
    data = make(kind)
    assert data.startswith(magic)
    assert len(data) > 100


def test_facts_of_odd_pictures() -> None:
    assert pixels(make("cmyk_jpeg")).mode == "CMYK"
    assert pixels(make("grey_jpeg")).mode == "L"
    assert pixels(make("palette_png")).mode == "P"
    assert pixels(make("grey16_png")).mode == "I;16"
    rgba = pixels(make("rgba_png"))
    assert rgba.mode == "RGBA"
    assert rgba.getchannel("A").getextrema()[0] == 0
    gif = Image.open(io.BytesIO(make("animated_gif")))
    assert (getattr(gif, "n_frames", 1), min(gif.size) >= 256) == (3, True)
    assert pixels(make("tiny_gif")).size == (1, 1)
    assert max(pixels(make("small_picture")).size) == 48
    assert pixels(make("tall_sliver")).size == (1, 400)
    assert pixels(make("banner")).size == (1800, 260)
    assert pixels(make("huge_picture")).size == (3000, 3000)
    good = pixels(JPEGS[0])
    turned = pixels(make("exif_rotated"))
    assert turned.getexif()[0x0112] == 6
    assert turned.size == good.size[::-1]
    upright = turned.transpose(Image.Transpose.ROTATE_270)
    assert np.abs(np.asarray(upright, dtype=int) - np.asarray(good, dtype=int)).mean() < 3
    grey16 = np.asarray(pixels(make("grey16_png"))).astype(int)
    assert np.array_equal(grey16, 257 * np.asarray(good.convert("L")).astype(int))


def test_headers_of_bombs_and_liars() -> None:
    bomb = make("png_bomb")
    assert struct.unpack(">II", bomb[16:24]) == (50_000, 50_000)
    assert len(bomb) < 1000
    height, width, *_ = simplejpeg.decode_jpeg_header(make("lying_jpeg"))
    assert (width, height // 2) == pixels(JPEGS[0]).size


@pytest.mark.parametrize("at", range(len(JPEGS)))
def test_copies(at: int) -> None:
    original = JPEGS[at]
    assert make("same_bytes", at) == original
    again = make("same_pixels", at)
    assert hashlib.sha256(again).digest() != hashlib.sha256(original).digest()
    assert np.array_equal(simplejpeg.decode_jpeg(again), simplejpeg.decode_jpeg(original))
    for kind in ("recompressed", "resized"):
        near = pixels(make(kind, at))
        assert (phash(near) ^ phash(pixels(original))).bit_count() <= 6
        assert min(near.size) >= 256
        assert make(kind, at) != original
    assert pixels(make("resized", at)).size != pixels(original).size


def test_jpeg_scan_finds_what_pillow_finds() -> None:
    for data in JPEGS:
        start = damage.jpeg_scan(data)
        assert data[:start].rfind(b"\xff\xda") == start - 2 - int.from_bytes(
            data[data[:start].rfind(b"\xff\xda") + 2 :][:2], "big"
        )
    with pytest.raises(ValueError, match="no scan"):
        damage.jpeg_scan(b"\xff\xd8\xff\xd9")
