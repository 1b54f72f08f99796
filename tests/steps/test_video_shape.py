"""Bounds of a video's frames and picture."""

from __future__ import annotations

from pathlib import Path

from mmdata.steps.video_shape import VideoShape
from mmdata.types import Drop
from tests.steps.footage import film
from tests.steps.given import apply, build, record


def test_shapes(tmp_path: Path) -> None:
    slow, small = film(("cat", 10, 1), rate=5), film(("cat", 10, 1))
    records = [record(slow), record(small), record("none")]
    built = build(tmp_path, records, [{"kind": "video_shape", "min_fps": 10}])
    assert built.reasons == ["video_shape", "", ""]
    assert built.details[0] == "5 frames a second"
    for bounds, kept in (
        ({"min_frames": 11}, False),
        ({"min_side": 97}, False),
        ({"max_side": 127}, False),
        ({"max_ratio": 1.2}, False),
        ({"max_fps": 19}, False),
        ({"min_frames": 10, "min_side": 96, "max_side": 128, "max_ratio": 1.4, "max_fps": 20.1}, True),
    ):
        assert isinstance(apply(VideoShape(**bounds), small), Drop) != kept, bounds
