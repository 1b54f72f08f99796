"""A glance says what the whole reader says, or nothing, whatever was done to the bytes."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmdata.decode.glance import glance
from mmdata.decode.image import MAX_PIXELS, ImageHeader, read_header
from mmdata.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (23, 41, 3), np.uint8)


def coded(format: str, mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    picture = Image.fromarray(PIXELS).convert(mode)
    if mode == "RGBA":
        picture.putalpha(100)
    picture.save(out, format, **options)
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


COMMON = {
    "jpeg": coded("JPEG"),
    "grey": coded("JPEG", "L"),
    "444": coded("JPEG", subsampling=0, quality=100),
    "progressive": coded("JPEG", progressive=True, optimize=True),
    "comment": coded("JPEG", comment=b"a comment", dpi=(300, 300)),
    "restart": coded("JPEG", restart_marker_rows=1),
    "icc": coded("JPEG", icc_profile=b"profile" * 20_000),
    "png": coded("PNG"),
    "png grey": coded("PNG", "L", dpi=(72, 72)),
    "png alpha": coded("PNG", "RGBA"),
    "webp": coded("WEBP", quality=60),
}
UNUSUAL = {
    "turned": coded("JPEG", exif=exif(6)),
    "png turned": coded("PNG", exif=exif(8)),
    "cmyk": coded("JPEG", "CMYK"),
    "xmp": coded("JPEG", xmp=b"<x:xmpmeta/>"),
    "palette": coded("PNG", "P"),
    "bits": coded("PNG", "1"),
    "deep": coded("PNG", "I;16"),
    "lossless": coded("WEBP", lossless=True),
    "webp alpha": coded("WEBP", "RGBA"),
    "animated": coded("WEBP", save_all=True, append_images=[Image.new("RGB", (41, 23))]),
    "apng": coded("PNG", save_all=True, append_images=[Image.new("RGB", (41, 23))]),
    "gif": coded("GIF"),
    "none": b"",
}


def told(header: ImageHeader) -> tuple[str, int, int, str]:
    return header.format, header.height, header.width, header.mode


@pytest.mark.parametrize("name", COMMON)
def test_common_pictures_are_told_as_the_whole_reader_does(name: str) -> None:
    found = glance(COMMON[name], max_pixels=MAX_PIXELS)
    header = read_header(COMMON[name], max_pixels=MAX_PIXELS)
    assert found == told(header)
    assert (header.frames, header.orientation, header.bits) == (1, 1, 8)
    assert glance(COMMON[name], max_pixels=23 * 41 - 1) is None


@pytest.mark.parametrize("name", UNUSUAL)
def test_others_are_left_to_it(name: str) -> None:
    assert glance(UNUSUAL[name], max_pixels=MAX_PIXELS) is None


@pytest.mark.parametrize("name", [*COMMON, *UNUSUAL])
def test_damage_is_never_overlooked_that_the_whole_reader_sees(name: str) -> None:
    data = (COMMON | UNUSUAL)[name]
    draw = np.random.default_rng(len(name))
    head = min(len(data), 700)
    answered = 0
    until = time.process_time() + 0.25
    for number in range(400):
        changed = bytearray(data)
        if head and number % 4:
            for at in draw.integers(0, head, 1 + number % 3):
                changed[at] = draw.choice([0, 1, 255, 0xC2, 0xDA, 0xE1, int(draw.integers(256))])
        elif number % 8 == 0:
            del changed[int(draw.integers(len(data) + 1)) :]
        elif head:
            at = int(draw.integers(head))
            changed[at:at] = bytes(draw.integers(0, 256, int(draw.integers(1, 9)), np.uint8))
        found = glance(bytes(changed), max_pixels=10_000)
        if found is None:
            continue
        answered += 1
        try:
            header = read_header(bytes(changed), max_pixels=10_000)
        except DataError as error:
            pytest.fail(f"{found} of what is {error}: {bytes(changed[:head]).hex()}")
        assert found == told(header), bytes(changed[:head]).hex()
        assert (header.frames, header.orientation, header.bits) == (1, 1, 8)
        if time.process_time() > until and answered > 20:
            break
    assert answered or name in UNUSUAL
