"""A likeness in the metadata."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.decode.pictures import photo, save
from tests.steps.given import build, image, record


def test_a_build(tmp_path: Path) -> None:
    built = build(tmp_path, [record(image(save(photo(), "PNG"))), record("none")], [{"kind": "thumbnail", "side": 64}])
    first, none = built.column("thumbnail")
    assert none is None
    head, _, data = first.partition(",")
    assert head == "data:image/jpeg;base64"
    small = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (small.format, small.size) == ("JPEG", (64, 48))
    expected = np.asarray(photo().resize((64, 48), Image.Resampling.BICUBIC), np.int16)
    assert np.abs(np.asarray(small, np.int16) - expected).mean() < 6
