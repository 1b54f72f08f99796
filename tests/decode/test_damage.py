"""Cut and flipped files: what is damaged raises DataError and nothing else, and verifying is as strict as decoding."""

from __future__ import annotations

import math
import random
import struct
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.decode import image, jpeg
from mmdata.decode.structure import check, gif_frames
from mmdata.errors import DataError

from .pictures import SKIMAGE, SKLEARN, frames, odd_kinds, photo, save
from .test_image import LIMIT, pillow, reason

JPEGS = {
    "baseline": save(photo(), "JPEG", quality=85),
    "progressive": save(photo(), "JPEG", quality=85, progressive=True),
    "restart": save(photo(), "JPEG", quality=85, restart_marker_blocks=7),
    "grey": save(photo(mode="L"), "JPEG", quality=85),
    "cmyk": save(photo(mode="CMYK"), "JPEG", quality=75),
}


def flipped(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


@pytest.mark.parametrize("name", JPEGS)
def test_verify_raises_exactly_when_the_full_decode_does(name: str) -> None:
    data = JPEGS[name]
    chance = random.Random(name)
    damaged = [data[:cut] for cut in range(0, len(data), 307)] + [flipped(data, chance) for _ in range(250)]
    found = [(reason(image.decode, one), reason(image.verify, one)) for one in damaged]
    assert [full for full, _ in found] == [quick for _, quick in found]
    reasons = {full for full, _ in found}
    assert {"truncated_image", "corrupt_image", None} <= reasons


def test_every_cut_of_a_real_photograph_is_noticed() -> None:
    data = (SKLEARN / "flower.jpg").read_bytes()
    for cut in range(1000, len(data), 1000):
        assert reason(image.verify, data[:cut]) == "truncated_image"
    assert reason(image.decode, data[: len(data) // 2]) == "truncated_image"
    assert reason(image.decode, data[:-2]) == "truncated_image"


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_every_cut_of_other_formats_is_noticed(format: str) -> None:
    whole = photo(200, 150).quantize(128) if format == "GIF" else photo(200, 150)
    options = {"compression": "tiff_lzw"} if format == "TIFF" else {}
    data = save(whole, format, **options)
    step = max(1, min(1000, len(data) // 40))
    for cut in [*range(16, len(data) - 8, step), len(data) - 9]:
        known = {"truncated_image", "corrupt_image", "bad_header"} | (
            {"unsupported_format"} if format == "TIFF" else set()
        )
        assert reason(image.decode, data[:cut]) in known, cut
        assert reason(image.verify, data[:cut]) is not None
    middle = reason(image.decode, data[: len(data) // 2])
    assert middle == "truncated_image" or format in ("TIFF", "AVIF", "JPEG2000")


def test_every_cut_of_a_real_png_is_noticed() -> None:
    data = (SKIMAGE / "coins.png").read_bytes()
    assert {reason(image.verify, data[:cut]) for cut in range(1000, len(data), 1000)} == {"truncated_image"}


def test_every_flip_of_a_png_is_noticed() -> None:
    """Each byte lies in the signature, a length, a type, a payload or a checksum; Pillow alone misses most of them."""
    data = save(photo(40, 30), "PNG")
    assert [at for at in range(len(data)) if reason(image.decode, data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]) is None] == []  # fmt: skip # noqa: E501


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_damage_in_a_later_frame_is_noticed(format: str) -> None:
    first, *more = frames()
    data = save(first, format, save_all=True, append_images=more, duration=40)
    image.verify(data, max_pixels=LIMIT)
    for cut in (len(data) * 3 // 4, len(data) - 20):
        assert reason(image.verify, data[:cut]) in ("truncated_image", "corrupt_image", "bad_header")


def test_harmless_oddities_of_jpeg_are_tolerated() -> None:
    data = JPEGS["baseline"]
    truth = pillow(data)
    app0 = data.index(b"JFIF\0")
    harmless = {
        "bytes after the end": data + b"trailing junk" * 50,
        "padding before the end": data[:-2] + b"\0" * 7 + data[-2:],
        "much padding": data[:-2] + b"\xaa" * 3000 + data[-2:],
        "bytes between segments": data[:20] + b"\1\2\3" + data[20:],
        "fill bytes": data[:20] + b"\xff\xff\xff" + data[20:],
        "odd JFIF version": data[: app0 + 5] + b"\x09" + data[app0 + 6 :],
        "a comment": data[:20] + b"\xff\xfe\0\6abcd" + data[20:],
    }
    scan = data.index(b"\xff\xda")
    parameters = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big") - 3
    harmless["odd scan parameters"] = data[:parameters] + b"\0\0\0" + data[parameters + 3 :]
    for name, odd in harmless.items():
        np.testing.assert_array_equal(image.decode(odd, max_pixels=LIMIT), truth, err_msg=name)
        image.verify(odd, max_pixels=LIMIT)


@pytest.mark.parametrize("name", ["baseline", "progressive", "restart"])
def test_a_harmless_first_warning_hides_no_damage(name: str) -> None:
    """libjpeg reports its first warning only: junk in the header must not make up for a damaged picture."""
    data = JPEGS[name]
    chance = random.Random(name)
    for _ in range(200):
        damaged = flipped(data[600:], chance)
        plain, odd = data[:600] + damaged, data[:20] + b"\1\2\3" + data[20:600] + damaged
        assert reason(image.decode, odd) == reason(image.decode, plain)
    assert reason(image.decode, data[:20] + b"\1\2\3" + data[20 : len(data) // 2]) == "truncated_image"


def test_junk_inside_the_scans_is_damage() -> None:
    data = JPEGS["restart"]
    marker = data.index(b"\xff\xd3")
    assert reason(image.decode, data[:marker] + b"\x12\x34\x56" + data[marker:]) == "corrupt_image"
    scans = [at for at in range(len(JPEGS["progressive"])) if JPEGS["progressive"][at : at + 2] == b"\xff\xda"]
    late = JPEGS["progressive"][: scans[3]] + b"\x12\x34\x56" + JPEGS["progressive"][scans[3] :]
    assert reason(image.decode, late) == "corrupt_image"


def test_a_plain_header_keeps_the_picture() -> None:
    for name, data in {**JPEGS, "real": (SKIMAGE / "rocket.jpg").read_bytes()}.items():
        np.testing.assert_array_equal(jpeg.decode(jpeg.plain_header(data)), jpeg.decode(data), err_msg=name)


def test_endless_scans_are_refused() -> None:
    data = JPEGS["progressive"]
    starts = [at for at in range(len(data)) if data[at : at + 2] in (b"\xff\xda", b"\xff\xc4", b"\xff\xd9")]
    last_scan = next(data[a:b] for a, b in reversed(list(pairwise(starts))) if data[a : a + 2] == b"\xff\xda")
    assert reason(image.decode, data[:-2] + last_scan * 600 + data[-2:]) == "corrupt_image"
    assert reason(image.read_header, data[:-2] + last_scan * 600 + data[-2:]) == "corrupt_image"


def test_gif_frames_are_counted_up_to_the_cut() -> None:
    data = odd_kinds()["gif animated"]
    counts = [gif_frames(data[:cut], whole=False) for cut in range(13, len(data) + 1)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 3)
    with pytest.raises(DataError, match="trailer"):
        check(data[:-1], "gif")


@pytest.mark.parametrize("name", odd_kinds())
def test_flips_raise_nothing_but_data_errors(name: str) -> None:
    data = odd_kinds()[name]
    chance = random.Random(name)
    for _ in range(60):
        damaged = flipped(data, chance)
        full = reason(image.decode, damaged, max_pixels=1_000_000)
        if full is not None:
            assert reason(image.verify, damaged, max_pixels=1_000_000) is not None
        reason(image.decode_scaled, damaged, min_height=4, min_width=4, max_pixels=1_000_000)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(odd_kinds())), st.data())
def test_splices_raise_nothing_but_data_errors(name: str, draw: st.DataObject) -> None:
    data = odd_kinds()[name]
    start = draw.draw(st.integers(0, len(data)))
    stop = draw.draw(st.integers(start, len(data)))
    damaged = data[:start] + draw.draw(st.binary(max_size=40)) + data[stop:]
    reason(image.verify, damaged, max_pixels=1_000_000)
    reason(image.read_header, damaged, max_pixels=1_000_000)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from((b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"BM")), st.binary(max_size=300)
)
def test_random_bytes_raise_data_errors(magic: bytes, tail: bytes) -> None:
    assert reason(image.decode, magic + tail, max_pixels=1_000_000) is not None or magic in (b"GIF89a", b"BM", b"II*\0")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("bits", "colour", "channels"), [(1, 0, 1), (4, 3, 1), (8, 2, 3), (16, 6, 4)])
def test_a_png_header_that_promises_more_than_there_is(bits: int, colour: int, channels: int, interlaced: bool) -> None:
    """The size of the scanlines, against a count made pixel by pixel; one byte less is a truncated picture."""
    width, height = 13, 9
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    total = 0
    for top, left, down, right in starts if interlaced else [(0, 0, 1, 1)]:
        columns = len(range(left, width, right))
        total += sum(1 + math.ceil(columns * bits * channels / 8) for _ in range(top, height, down) if columns)

    def png(size: int) -> bytes:
        head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
        chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(size))), (b"IEND", b"")]
        if colour == 3:
            chunks.insert(1, (b"PLTE", bytes(3)))
        body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
        return b"\x89PNG\r\n\x1a\n" + b"".join(body)

    assert image.decode(png(total), max_pixels=10_000).shape == (height, width, 3)
    with pytest.raises(DataError) as caught:
        image.decode(png(total - 1), max_pixels=10_000)
    assert caught.value.reason == "truncated_image"
