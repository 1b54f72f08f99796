"""`video_clips.yaml` on films of known scenes with subtitles, and the damage that such lists have."""

from __future__ import annotations

import json
from pathlib import Path

from tests.pipelines.running import Run
from tests.steps.footage import film

SUBTITLES = """1
00:00:00,100 --> 00:00:00,900
A cat.

2
00:00:02,600 --> 00:00:03,400
Lift-off!
"""


def films(folder: Path) -> Path:
    """A film of three scenes with subtitles and sound, one with a black and a still scene, and one of a single scene;
    the first again, one cut short and one that is not there."""
    folder.mkdir()
    made = {
        "news.mp4": film(("cat", 24, 1), ("coffee", 30, 1), ("rocket", 20, 1), sound=True),
        "credits.mp4": film(("rocket", 24, 1), ("black", 20, 0), ("cat", 20, 0)),
        "one.mp4": film(("coffee", 24, 2)),
    }
    for name, media in made.items():
        (folder / name).write_bytes(media.data or b"")
    (folder / "news.srt").write_text(SUBTITLES)
    (folder / "again.mp4").write_bytes(made["news.mp4"].data or b"")
    whole = made["credits.mp4"].data or b""
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    names = [*made, "again.mp4", "cut.mp4", "gone.mp4"]
    lines = [{"video": name, "caption": f"A film called {name}.", "channel": "c1"} for name in names]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "manifest.jsonl"


def test_films_are_cut_at_their_scenes(films_cut: tuple[Run, Path]) -> None:
    made, _ = films_cut
    assert made.reasons[:4] == ["", "", "", "exact_dup"]
    assert made.reasons[5] == "not_found"
    assert made.rows[4].state == "failed_permanent"
    news, credits, one = made.samples
    assert [len(sample.media) for sample in made.samples] == [3, 3, 1]
    assert news.meta["clips"] == [[0.0, 1.2], [1.2, 2.7], [2.7, 3.7]]
    assert [text.text for text in news.texts] == ["A cat.", "Lift-off!", "A film called news.mp4."]
    assert news.meta["spoken"] == [True, False, True]
    assert [media.frames for media in credits.media] == [24, 20, 20]
    assert one.media[0].frames == 24
