"""Which frames become pictures, and that they are those frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdata.decode.packets import keyframes
from mmdata.decode.video import decode_frames
from mmdata.steps._films import with_facts
from mmdata.steps.keyframe_images import KeyframeImages
from mmdata.types import Media
from tests.decode.clips import clip as encoded
from tests.steps.footage import film
from tests.steps.given import build, record


def test_a_build(tmp_path: Path) -> None:
    import io

    video = film(("cat", 20, 1), ("rocket", 20, 1))
    step = {"kind": "keyframe_images", "pick": "scenes"}
    built = build(tmp_path, [record(video, "text"), record("none")], [step])
    sample = built.samples[0]
    assert [media.kind for media in sample.media] == ["image", "image"]
    assert sample.meta["frame_times"] == [0.5, 1.5]
    for media, at in zip(sample.media, (10, 30), strict=True):
        seen = np.asarray(Image.open(io.BytesIO(media.data or b"")), float)
        truth = decode_frames(video, [at]).pixels[0].permute(1, 2, 0).numpy()
        assert np.abs(seen - truth).mean() < 4


def test_which_frames() -> None:
    video = with_facts(Media(kind="video", data=encoded(frames=40)))
    assert video.packets is not None
    found = [int(at) for at in keyframes(video.packets)]
    assert len(found) >= 3
    assert KeyframeImages().frames(video) == found
    assert KeyframeImages(most=1).frames(video) == [found[len(found) // 2]]
    assert KeyframeImages(pick="uniform", most=4).frames(video) == [5, 15, 25, 35]
    assert KeyframeImages(pick="uniform", most=100).frames(video) == list(range(40))


def test_the_video_may_stay(tmp_path: Path) -> None:
    video = film(("cat", 20, 1))
    step = {"kind": "keyframe_images", "pick": "uniform", "most": 2, "keep_video": True}
    built = build(tmp_path, [record(video)], [step])
    assert [media.kind for media in built.samples[0].media] == ["video", "image", "image"]
    assert built.column("frame_times") == [pytest.approx([0.25, 0.75])]
