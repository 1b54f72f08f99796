"""A build to be shared by processes, and what it makes when one does it alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.building import build, folder_of_pictures, write_spec

STEPS = [
    {"kind": "probe"},
    {"kind": "min_side", "pixels": 50},
    {"kind": "exact_dedup"},
    {"kind": "near_dup", "radius": 4},
    {"kind": "resize", "mode": "shortest", "size": 96},
]


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """57 pictures, some of them twice (in other units), some damaged."""
    place = tmp_path_factory.mktemp("shares")
    pictures = folder_of_pictures(place / "in", 50)
    for number in range(0, 50, 10):
        shutil.copy(pictures / f"{number:04d}.jpg", pictures / f"{number + 3:04d}x.jpg")
    (pictures / "0022.jpg").write_bytes((pictures / "0022.jpg").read_bytes()[:900])
    (pictures / "0049y.jpg").write_bytes(b"<html></html>")
    (pictures / "0031z.png").write_bytes(b"")
    return write_spec(place / "s.yaml", {"kind": "folder", "path": "in"}, STEPS, output={"unit_rows": 4})


@pytest.fixture(scope="package")
def alone(shared: Path) -> Path:
    build(shared, "--output", str(shared.parent / "alone"))
    return shared.parent / "alone"
