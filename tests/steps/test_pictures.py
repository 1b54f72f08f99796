"""Brightness as Pillow has it, averaging, and replacing pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mmdata.decode.work import Work
from mmdata.steps._pictures import changed, grey, images, reduced
from mmdata.types import Media, Origin, Sample, Text
from tests.decode.pictures import photo, save


def test_grey_is_pillows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    assert np.array_equal(grey(pixels), np.asarray(Image.fromarray(pixels).convert("L")))


def test_reduced_is_the_mean() -> None:
    pixels = np.arange(7 * 5, dtype=np.uint8).reshape(7, 5)
    assert reduced(pixels, 7) is pixels
    assert reduced(pixels, 4).tolist() == [[3, 5], [13, 15], [23, 25]]
    assert reduced(np.stack([pixels] * 3, axis=2), 4).shape == (3, 2, 3)
    assert reduced(np.zeros((1, 900), np.uint8), 64).shape == (1, 900), "a strip is not averaged away"


def test_only_what_changes_is_encoded_again() -> None:
    png, jpeg = save(photo(32, 24), "PNG"), save(photo(32, 24), "JPEG")
    parts = (Text(text="x"), Media(kind="image", data=png), Media(kind="image", data=jpeg))
    sample = Sample(key="k", parts=parts, origin=Origin(uri="t", row=0))
    assert len(list(images(sample))) == 2
    result = changed(sample, Work(), lambda media, pixels: pixels[::-1, :10] if media.data is png else None)
    first, second = result.media
    assert second.data is jpeg
    assert (first.format, first.height, first.width, first.mode) == ("png", 24, 10, "RGB")
    assert np.array_equal(Work().pixels(first), np.asarray(photo(32, 24))[::-1, :10])
    assert changed(sample, Work(), lambda media, pixels: pixels[..., 0]).media[1].mode == "L"
