"""Pictures of one colour, with and without noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mmdata.steps.solid_colour import solid
from tests.decode.pictures import photo, save
from tests.steps.given import build, image, record


def plain(other: int, noise: int = 0) -> Image.Image:
    """100 x 100 pixels of one colour, `other` of them of another."""
    pixels = np.full((100, 100, 3), (15, 140, 200), np.int16)
    pixels += np.random.default_rng(0).integers(-noise, noise + 1, pixels.shape, np.int16)
    pixels.reshape(-1, 3)[:other] = (250, 0, 0)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_a_build(tmp_path: Path) -> None:
    pictures = [plain(400), plain(600), plain(0, noise=4), photo(100, 80)]
    built = build(tmp_path, [record(image(save(one, "PNG"))) for one in pictures], [{"kind": "solid_colour"}])
    assert built.reasons == ["solid_colour", "", "solid_colour", ""]
    assert built.details[0] == "96.0% of one colour, more than 95.0%"
    assert built.column("solid")[0] == 0.94
    assert built.column("solid")[1] < 0.5


def test_tolerance() -> None:
    ramp = np.repeat(np.arange(0, 250, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert solid(ramp, 0) == 1 / 250
    assert solid(ramp, 255) == 1.0
