from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from mmdata.decode import image
from mmdata.decode.work import Work
from mmdata.errors import DataError
from mmdata.native import jpeg
from mmdata.native.library import AVX2, level
from mmdata.native.pillow import by_kernels
from mmdata.steps.near_dup import NearDup
from mmdata.steps.probe import Probe
from mmdata.steps.resize import Resize
from mmdata.types import Media, Origin, Sample

from .pictures import odd_kinds, photo, pillow, save, with_orientation

STORED = 3 if by_kernels() else 4
"""Samples of a pixel that is decoded only to be resized: an array for the kernels, or what Pillow reads in place."""


def media(data: bytes) -> Media:
    return Media(kind="image", data=data)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of everything that libjpeg-turbo or the kernel decodes."""
    shapes: list[tuple[int, ...]] = []

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*args: Any, **options: Any) -> np.ndarray | None:
            pixels: np.ndarray | None = real(*args, **options)
            if pixels is not None:
                shapes.append(pixels.shape)
            return pixels

        monkeypatch.setattr(owner, name, watched)

    watch(simplejpeg, "decode_jpeg")
    watch(jpeg, "pixels")
    return shapes


def test_pixels_are_decoded_once_and_read_only(decoded: list[tuple[int, ...]]) -> None:
    work, part = Work(), media(save(photo(), "JPEG"))
    pixels = work.pixels(part)
    work.verify(part)
    assert work.pixels(media(part.data)) is pixels
    assert work.preview(part, 32).shape == (35, 46, 3)
    assert work.thumbnail(part) is not None
    np.testing.assert_array_equal(np.asarray(work.picture(part)), pixels)
    assert decoded == [(240, 320, 3)]
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0] = 0
    work.clear()
    assert work.pixels(part) is not pixels


def test_verification_makes_no_more_than_is_asked_for_later(decoded: list[tuple[int, ...]]) -> None:
    part = media(save(photo(), "JPEG"))
    if level() >= AVX2:
        light = Work()
        light.verify(part)
        light.verify(part)
        assert decoded == []
    for light in (Work(needs_preview=True), Work()):
        decoded.clear()
        light.verify(part)
        light.verify(part)
        assert light.preview(part, 30).shape == (30, 40, 3)
        assert decoded == [(30, 40, STORED)]
    # What the kernel does not read is decoded.
    decoded.clear()
    unusual = Work()
    unusual.verify(media(simplejpeg.encode_jpeg(np.asarray(photo()), colorsubsampling="440")))
    assert decoded == [(30, 40, STORED)]
    with pytest.raises(DataError, match="truncated_image"):
        Work().verify(media(part.data[:5000]))
    decoded.clear()
    heavy = Work(needs_pixels=True)
    heavy.verify(part)
    heavy.pixels(part)
    heavy.preview(part, 30)
    assert decoded == [(240, 320, 3)]


def test_a_probe_and_a_resize_decode_once(decoded: list[tuple[int, ...]]) -> None:
    steps = (Probe(), Resize(mode="shortest", size=100))
    work = Work.for_steps(steps)
    sample = Sample(key="a", parts=(media(save(photo(), "JPEG")),), origin=Origin(uri="", row=0))
    for step in steps:
        sample = step.apply(sample, work)
    assert decoded == [(240, 320, STORED)]
    np.testing.assert_array_equal(work.pixels(media(save(photo(), "JPEG"))), pillow(save(photo(), "JPEG")))


def test_for_steps_reads_the_limit_and_the_needs() -> None:
    small = Probe(max_pixels=100)
    work = Work.for_steps((small, Resize(size=10, decode="scaled")))
    assert (work.max_pixels, work.needs_pixels) == (100, False)
    with pytest.raises(DataError, match="decompression_bomb"):
        work.header(media(save(photo(20, 20), "PNG")))
    assert Work.for_steps(()).max_pixels == image.MAX_PIXELS
    work = Work.for_steps((Resize(size=10),))
    assert (work.needs_pixels, work.as_picture, work.needs_preview) == (True, True, False)
    assert Work.for_steps((Probe(), NearDup())).needs_preview


def test_previews_are_large_enough_and_alike() -> None:
    for name, data in odd_kinds().items():
        for side in (1, 9, 32, 500):
            preview = Work().preview(media(data), side)
            full = pillow(data)
            assert preview.shape[2] == 3
            assert min(preview.shape[:2]) >= min(side, *full.shape[:2]), name
            assert side < 9 or abs(preview.mean() - full.mean()) < 6, name


def test_thumbnails_are_upright_small_jpegs_or_none() -> None:
    thumbnail = Work().thumbnail(media(with_orientation("JPEG", 6, 400, 200)), 96)
    assert thumbnail is not None
    assert Image.open(io.BytesIO(thumbnail)).size == (48, 96)
    assert Work().thumbnail(media(save(photo(), "JPEG")[:5000])) is None
    assert Work().thumbnail(media(b"<html>")) is None


def test_damage_is_found_whatever_is_asked_first() -> None:
    part = media(save(photo(), "JPEG")[:5000])
    for needs in (False, True):
        work = Work(needs_pixels=needs)
        assert work.header(part).width == 320
        for ask in (work.verify, work.pixels, work.picture):
            with pytest.raises(DataError, match="truncated_image"):
                ask(part)


def test_unfetched_media_is_a_bug_not_bad_data() -> None:
    with pytest.raises(ValueError, match="fetching"):
        Work().header(Media(kind="image", uri="http://example.org/a.jpg"))


def test_sizes_come_from_facts_first() -> None:
    assert Work().size(Media(kind="image", height=3, width=4)) == (3, 4)
    assert Work().size(media(with_orientation("JPEG", 6))) == (60, 40)
