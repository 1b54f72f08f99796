"""Pans of known speed, and stills."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdata.steps.motion import Motion
from mmdata.types import Drop
from tests.steps.footage import film
from tests.steps.given import apply, build, record


def test_a_build(tmp_path: Path) -> None:
    films = [film(("cat", 20, 0)), film(("coffee", 40, 2)), film(("coffee", 20, 0), ("coffee", 20, 2))]
    records = [record(one) for one in films] + [record("none")]
    step = {"kind": "motion", "max_static": 0.6, "fps": 20}
    built = build(tmp_path, records, [step])
    assert built.reasons == ["static", "", "", ""]
    assert built.details[0] == "100.0% of the frames, more than 60.0%"
    pan, half, _ = built.column("motion")
    assert pan == pytest.approx(2.0, abs=0.5)
    assert half == pytest.approx(pan / 2, abs=0.3)
    assert built.column("static")[:2] == [0.0, pytest.approx(19 / 39, abs=0.06)]


def test_bounds() -> None:
    still, pan = film(("cat", 20, 0)), film(("coffee", 40, 2))
    assert apply(Motion(min=0.5, fps=20), still) == Drop(reason="motion", detail="0 pixels on average")
    assert isinstance(apply(Motion(max=0.5, fps=20), pan), Drop)
    assert not isinstance(apply(Motion(min=0.5, max=4, fps=20), pan), Drop)
