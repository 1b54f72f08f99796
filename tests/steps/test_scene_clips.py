"""Scenes cut where they were joined, through a build; subtitles beside them; and pictures of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from mmdata.decode.video import decode_frames
from mmdata.steps._films import with_facts
from mmdata.steps.scene_clips import SceneClips
from tests.steps.footage import film, frames
from tests.steps.given import build, record

JOINED = film(("cat", 20, 1), ("coffee", 30, 1), ("rocket", 20, 1))


def test_a_build(tmp_path: Path) -> None:
    one = film(("cat", 20, 1))
    records = [record(JOINED, "a film"), record(one), record(film(("cat", 5, 1))), record("none")]
    built = build(tmp_path, records, [{"kind": "scene_clips", "min_scene": 5}])
    assert built.reasons == ["", "", "scene_clips", ""]
    cut, whole, _ = built.samples
    assert cut.meta["clips"] == [[0.0, 1.0], [1.0, 2.5], [2.5, 3.5]]
    assert [media.frames for media in cut.media] == [20, 30, 20]
    assert cut.texts[0].text == "a film"
    for media, scene in zip(cut.media, ("cat", "coffee", "rocket"), strict=True):
        seen = decode_frames(media, [0]).pixels[0].permute(1, 2, 0).numpy().astype(float)
        assert np.abs(seen - frames(scene, 1, 1)[0]).mean() < 8, scene
    assert whole.media[0].data == one.data, "one scene keeps its bytes"


def test_long_scenes_are_cut_evenly() -> None:
    step = SceneClips(min_scene=5, max_seconds=1.0)
    assert step.spans(with_facts(JOINED)) == [(0, 20), (20, 35), (35, 50), (50, 70)]
    with pytest.raises(ValidationError, match="twice min_seconds"):
        SceneClips(max_seconds=0.6)
