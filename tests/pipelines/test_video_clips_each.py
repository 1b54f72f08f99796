"""`video_clips_each.yaml` on what `video_clips.yaml` has cut."""

from __future__ import annotations

from pathlib import Path

from tests.pipelines.running import Run, run


def test_each_clip_is_a_sample_or_has_a_reason(films_cut: tuple[Run, Path], tmp_path: Path) -> None:
    films, place = films_cut
    made = run("video_clips_each.yaml", tmp_path / "clips", f"source.path={place}")
    assert made.reasons == ["", "", "", "", "black_frames", "static", ""]
    assert [sample.meta["parent"] for sample in made.samples] == [films.samples[at].key for at in (0, 0, 0, 1, 2)]
    assert [sample.meta["piece"] for sample in made.samples] == [0, 1, 2, 0, 0]
    assert {len(sample.media) for sample in made.samples} == {1}
    assert [text.text for text in made.samples[0].texts] == ["A cat.", "A film called news.mp4."]
    assert [text.text for text in made.samples[1].texts] == ["A film called news.mp4."]
    sets = {(sample.meta["parent"], sample.meta["split"]) for sample in made.samples}
    assert len(sets) == 3, "all clips of a film are in one set"
