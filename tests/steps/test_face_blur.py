"""Regions that a detector or a column names are blurred, and nothing else is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from mmdata.errors import SpecError
from mmdata.specfile import load_build
from mmdata.steps.face_blur import FaceBlur
from tests.decode.pictures import photo, save
from tests.steps.given import build, image, record

PLUGIN = """
def find(pixels):
    height, width = pixels.shape[:2]
    return [(20, 30, 40, 40), (height - 10, width - 10, 50, 50), (-90, 0, 5, 5)] if width > 100 else []
"""


def test_a_detector(tmp_path: Path) -> None:
    plugin = tmp_path / "my_faces.py"
    plugin.write_text(PLUGIN)
    whole, small = save(photo(), "PNG"), save(photo(80, 60), "PNG")
    step = {"kind": "face_blur", "detector": "my_faces.find", "grow": 0}
    built = build(tmp_path, [record(image(whole)), record(image(small))], [step], plugins=[str(plugin)])
    assert built.column("blurred") == [2, None]
    assert built.samples[1].media[0].data == small
    before = np.asarray(photo(), np.int16)
    after = np.asarray(Image.open(io.BytesIO(built.samples[0].media[0].data or b"")), np.int16)
    touched = np.zeros(before.shape[:2], bool)
    touched[20:60, 30:70] = touched[-10:, -10:] = True
    assert np.array_equal(after[~touched], before[~touched])
    face = after[20:60, 30:70]
    assert np.abs(np.diff(face, axis=1)).mean() < 0.5 * np.abs(np.diff(before[20:60, 30:70], axis=1)).mean()
    assert face.mean() == pytest.approx(before[20:60, 30:70].mean(), abs=3)


def test_a_column_and_bad_boxes(tmp_path: Path) -> None:
    data = save(photo(), "PNG")
    records = [record(image(data), boxes=[[0, 0, 10, 10]]), record(image(data)), record(image(data), boxes=[[1, 2]])]
    records += [record(image(data), boxes=boxes) for boxes in (-1.5, [[0, 0, 10**400, 1]])]
    records += [record(image(data), image(data), boxes=[[0, 0, 10, 10]])]
    built = build(tmp_path, records, [{"kind": "face_blur", "boxes": "boxes"}])
    assert built.reasons == ["", "", *["face_blur_box"] * 4]
    assert built.column("blurred") == [1, None]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="one of them"):
        FaceBlur()
    with pytest.raises(ValidationError, match="no plugin is called 'absent'"):
        FaceBlur(detector="absent.find")
    with pytest.raises(SpecError, match=r"steps\[0\]\.detector: .*no plugin is called 'x'"):
        build(tmp_path, [record("x")], [{"kind": "face_blur", "detector": "x.y"}])


def test_boxes_are_of_the_picture_as_it_came(tmp_path: Path) -> None:
    """Nothing moves them: behind a step that resizes, something else than the faces would be blurred."""
    path = tmp_path / "spec.yaml"

    def load(*steps: str) -> None:
        listed = "".join(f"  - {step}\n" for step in steps)
        path.write_text(f"source: {{kind: folder, path: .}}\noutput: {{path: out}}\nsteps:\n{listed}")
        load_build(str(path))

    blur, resize = "{kind: face_blur, boxes: faces}", "{kind: resize, size: 100}"
    load("{kind: probe}", "{kind: resize, mode: keep, format: jpeg}", blur, resize)
    for moves in (resize, "{kind: aspect_bucket, fit: crop}"):
        with pytest.raises(SpecError, match="put face_blur before"):
            load(moves, blur)
