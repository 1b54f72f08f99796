"""A page, lines written on a photograph, and photographs without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmdata.steps._pictures import grey, reduced
from mmdata.steps.text_area import text_area
from tests.decode.pictures import SKIMAGE, photo, photographs, save
from tests.steps.given import build, image, record

WITHOUT = ("astronaut", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "flower")


def written(lines: int) -> Image.Image:
    """A photograph with so many lines of white writing on black across it."""
    whole = photo(640, 480).copy()
    draw = ImageDraw.Draw(whole)
    for line in range(lines):
        draw.rectangle((0, 30 * line, 640, 30 * line + 28), fill=(0, 0, 0))
        words = "The quick brown fox jumps over the lazy dog " * 2
        draw.text((4, 30 * line + 2), words, font=ImageFont.load_default(20))
    return whole


def test_photographs_have_none() -> None:
    for path in photographs():
        if path.stem in WITHOUT:
            assert text_area(reduced(grey(np.asarray(Image.open(path).convert("RGB"))), 768)) < 0.04, path.name


def test_it_grows_with_the_lines() -> None:
    values = [text_area(grey(np.asarray(written(lines)))) for lines in (0, 4, 8, 16)]
    assert values == sorted(values)
    assert values[0] < 0.03
    assert 0.1 < values[2] < 0.6
    assert values[3] > 0.35


def test_a_build(tmp_path: Path) -> None:
    page = (SKIMAGE / "page.png").read_bytes()
    records = [record(image(data)) for data in (page, save(written(12), "JPEG", quality=85), save(photo(), "PNG"))]
    built = build(tmp_path, records, [{"kind": "text_area", "max": 0.2}])
    assert built.reasons == ["text_area", "text_area", ""]
    assert built.column("text_area")[0] < 0.05
