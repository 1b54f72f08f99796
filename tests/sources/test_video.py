"""Video manifests as a source: clips exact to the frame, subtitles in the clips' own time."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from mmdata.decode import audio, video
from mmdata.errors import SpecError
from mmdata.sources.video import Video, VideoColumns
from mmdata.types import Clip
from tests.decode import clips
from tests.sources.run import built, records, states

SRT = """1
00:00:00,100 --> 00:00:00,400
<i>First</i> words

2
00:00:00,500 --> 00:00:00,900
{\\an8}second
words

3
00:00:01,000 --> 00:00:01,200
third
"""


def test_clips_and_their_subtitles_are_built(tmp_path: Path) -> None:
    data = clips.clip(sound=True)  # 40 frames at 30 a second
    (tmp_path / "a.mp4").write_bytes(data)
    (tmp_path / "a.srt").write_text(SRT)
    (tmp_path / "b.mp4").write_bytes(data)
    (tmp_path / "broken.vtt").write_text("WEBVTT\n\nnothing\n")
    rows = [
        "video,start,end,caption,subtitles,id",
        "a.mp4,,,the whole,,1",
        "a.mp4,0.3,00:00:00.8,a part,,2",
        "b.mp4,0.5,1.0,,,3",
        "b.mp4,9,10,beyond,,4",
        "b.mp4,1,0.5,backwards,,5",
        "none.mp4,,,x,,6",
        "../a.mp4,,,x,,7",
        "b.mp4,,,x,broken.vtt,8",
        "b.mp4,soon,,x,,9",
    ]
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    source = {"kind": "video", "path": str(tmp_path / "clips.csv")}
    dataset, found = built(tmp_path / "out", source)
    assert states(found) == [
        *("ok", "ok", "ok", "failed_permanent:clip_beyond_end", "failed_permanent:bad_clip"),
        *("failed_permanent:not_found", "failed_permanent:path_escape", "failed_permanent:bad_subtitles"),
        "failed_permanent:bad_clip",
    ]
    whole, part, plain = dataset
    assert whole.media[0].data == data
    assert [text.text for text in whole.texts] == ["the whole", "First words", "second\nwords", "third"]
    assert [text.text for text in part.texts] == ["a part", "First words", "second\nwords"]
    assert part.meta["cues"] == [
        {"part": 2, "start": 0.0, "stop": 0.1},
        {"part": 3, "start": 0.2, "stop": 0.5},
    ]
    assert (part.meta["clip"], part.meta["id"]) == ([0.3, 0.8], "2")
    assert (part.media[0].frames, part.media[0].sample_rate) == (15, 16_000)
    assert plain.texts == ()
    assert video.decode_frames(part.media[0].data or b"", [0]).pixels.shape[-2:] == (96, 128)
    assert len(records(source)) == 9


def test_urls_and_columns_are_the_users(tmp_path: Path) -> None:
    line = {"url": "https://example.org/v.mp4", "from": 3, "to": 4.5, "title": "t", "caption": "stays"}
    (tmp_path / "v.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({**line, "sub": "https://x.org/a.srt"}))
    columns = {"video": "url", "start": "from", "end": "to", "text": "title", "subtitles": "sub"}
    (found, refused) = Video(path=str(tmp_path / "v.jsonl"), columns=VideoColumns(**columns)).open().records()
    assert found.sample.media[0].uri == "https://example.org/v.mp4"
    assert found.sample.media[0].excerpt == Clip(start=3.0, stop=4.5)
    assert found.sample.meta == {"caption": "stays", "clip": [3.0, 4.5]}
    assert refused.drop
    assert refused.drop.reason == "bad_subtitles"
    with pytest.raises(SpecError, match=r"source\.columns\.video: v\.jsonl has no column 'video'"):
        Video(path=str(tmp_path / "v.jsonl")).open()


def test_times_that_are_none_cost_their_own_record(tmp_path: Path) -> None:
    rows = [{"video": "a.mp4", "start": start} for start in (10**400, "1e400", [1], "x", 1)]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(Video(path=str(tmp_path / "v.jsonl")).open().records())
    assert [record.drop.reason if record.drop else "" for record in found] == [*["bad_clip"] * 4, ""]


def test_sound_that_begins_later_and_frames_of_one_time(tmp_path: Path) -> None:
    (tmp_path / "late.mkv").write_bytes(clips.beeping("matroska", pictures=5, sound=6))
    times = tuple(at // 2 * 100 for at in range(20))
    double = clips.clip(frames=20, times=times, base=Fraction(1, 1000), format="matroska", between=0)
    (tmp_path / "double.mkv").write_bytes(double)
    rows = ["video,start,end", "late.mkv,7,8", "double.mkv,0,0.5", "double.mkv,0.5,9", "late.mkv,1,2"]
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    dataset, found = built(tmp_path / "out", {"kind": "video", "path": str(tmp_path / "clips.csv")})
    assert states(found) == ["ok", "ok", *["failed_permanent:clip_beyond_end"] * 2]
    late, twins = (sample.media[0] for sample in dataset)
    wave = audio.decode(late.data or b"", sample_rate=None).abs()
    assert float((wave[:40_000] > 0.05).float().mean()) > 0.9, "the tone fills the clip"
    assert twins.frames == 10
