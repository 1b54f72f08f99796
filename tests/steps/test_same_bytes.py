"""Steps that write media make the same bytes whatever the number of workers."""

from __future__ import annotations

from pathlib import Path

from tests.building import content, picture
from tests.decode.pictures import save
from tests.steps.footage import film
from tests.steps.given import build, image, record
from tests.steps.recordings import audio, bursts

STEPS = [
    {"kind": "sample", "fraction": 0.9},
    {"kind": "split", "by": "film"},
    {"kind": "blur"},
    {"kind": "aspect_bucket", "buckets": [[64, 64], [48, 96]], "fit": "crop"},
    {"kind": "thumbnail"},
    {"kind": "loudness", "target": -23},
    {"kind": "voice_activity", "cut": "segments"},
    {"kind": "scene_clips", "min_scene": 5},
    {"kind": "motion"},
    {"kind": "text_near_dup"},
    {"kind": "limit_per", "by": "film", "most": 3},
]


def test_one_worker_and_two(tmp_path: Path) -> None:
    video = film(("cat", 20, 1), ("rocket", 20, 1), sound=True)
    records = [record(image(save(picture(at), "JPEG")), f"picture {at}", film=at % 4) for at in range(12)]
    records += [
        record(audio(bursts([(0.2, 0.8), (1.3, 1.8)], 2, noise=0.001)), f"sound {at}", film=5) for at in range(2)
    ]
    records += [record(video, "a film", film=6), record(video, "a film", film=7)]
    one = build(tmp_path, records, STEPS, name="one", unit_rows=4)
    two = build(tmp_path, records, STEPS, name="two", unit_rows=4, workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert one.reasons == two.reasons
    assert {"", "text_near_dup"} <= set(one.reasons)
