"""Videos that are black for a known share of the time; and with them motion and stills."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.steps.footage import film
from tests.steps.given import build, record

FILMS = [
    film(("cat", 20, 0)),
    film(("black", 15, 0), ("cat", 25, 4)),
    film(("black", 30, 0), ("cat", 10, 0)),
    film(("coffee", 40, 2)),
]


def test_a_build(tmp_path: Path) -> None:
    records = [record(one) for one in FILMS] + [record("none")]
    built = build(tmp_path, records, [{"kind": "black_frames", "fps": 20}])
    assert built.reasons == ["", "", "black_frames", "", ""]
    assert built.details[2] == "75.0% of the frames, more than 50.0%"
    assert built.column("black") == [0.0, pytest.approx(15 / 40), 0.0, None]
