"""Sharpness against OpenCV, and blurred copies of a photograph."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmdata.steps._pictures import grey
from mmdata.steps.blur import sharpness
from tests.decode.pictures import photo, photographs, save
from tests.steps.given import build, image, record


def test_opencv() -> None:
    for path in photographs()[:12]:
        brightness = np.asarray(Image.open(path).convert("L"))
        assert sharpness(brightness) == pytest.approx(cv2.Laplacian(brightness, cv2.CV_64F).var(), rel=1e-9)


def test_a_build(tmp_path: Path) -> None:
    radii = [0, 1, 4]
    pictures = [photo(320, 240).filter(ImageFilter.GaussianBlur(radius)) for radius in radii]
    values = [round(sharpness(grey(np.asarray(one))), 3) for one in pictures]
    assert values == sorted(values, reverse=True)
    records = [record(image(save(one, "PNG"))) for one in pictures]
    both = record(image(save(pictures[0], "PNG")), image(save(pictures[1], "PNG")))
    built = build(tmp_path, [*records, both, record("no picture")], [{"kind": "blur", "min": values[1]}])
    assert built.reasons == ["", "", "blur", "", ""]
    assert built.column("sharpness") == [values[0], values[1], values[1], None]
