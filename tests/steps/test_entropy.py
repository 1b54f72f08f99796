"""Entropy against scikit-image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.measure import shannon_entropy

from mmdata.steps.entropy import entropy
from tests.decode.pictures import photo, photographs, save
from tests.steps.given import build, image, record


def test_scikit_image() -> None:
    for path in photographs()[:12]:
        brightness = np.asarray(Image.open(path).convert("L"))
        assert entropy(brightness) == pytest.approx(shannon_entropy(brightness), abs=1e-9)


def test_a_build(tmp_path: Path) -> None:
    pictures = [photo(64, 48), Image.new("RGB", (64, 48), (9, 99, 199)), photo(64, 48, "1").convert("RGB")]
    built = build(tmp_path, [record(image(save(one, "PNG"))) for one in pictures], [{"kind": "entropy", "min": 2}])
    assert built.reasons == ["", "entropy", "entropy"]
    assert built.details[1] == "0 bits, not within 2 to 8"
    assert built.column("entropy")[0] == pytest.approx(shannon_entropy(np.asarray(pictures[0].convert("L"))), abs=1e-4)
