"""The probe over videos and audio, from one sample to a whole build."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mmdata import open_dataset
from mmdata.decode.video import decode_frames
from mmdata.decode.work import Work
from mmdata.errors import DataError
from mmdata.steps.probe import Probe
from mmdata.types import Media, Origin, Packets, Sample, Text
from mmdata.verify import verify_dataset
from tests.building import build, content, ledger, write_spec
from tests.decode.clips import clip


def wav(seconds: float = 0.5) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.sin(np.arange(int(16_000 * seconds)) / 7), 16_000, format="WAV")
    return out.getvalue()


def probe(kind: Any, data: bytes, **options: Any) -> Media:
    media = Media(kind=kind, data=data, uri="there", role="user")
    answer = Probe(**options).apply(Sample(key="a", parts=(media,), origin=Origin(uri="", row=0)), Work())
    assert isinstance(answer, Sample)
    return answer.media[0]


def test_facts_of_a_video() -> None:
    data = clip(sound=True)
    media = probe("video", data)
    assert media.data is data
    assert (media.uri, media.role, media.sha256) == ("there", "user", hashlib.sha256(data).hexdigest())
    assert (media.format, media.height, media.width, media.frames, media.verified) == ("mp4", 96, 128, 40, "full")
    assert (media.sample_rate, media.channels) == (16_000, 1)
    assert media.samples is not None
    assert isinstance(media.packets, Packets)
    header = probe("video", data, verify="header", digest="none")
    assert (header.verified, header.samples, header.sha256, header.frames) == ("header", None, None, 40)


def test_facts_of_audio() -> None:
    media = probe("audio", wav())
    assert (media.kind, media.format, media.sample_rate, media.channels, media.samples) == (
        "audio",
        "wav",
        16_000,
        1,
        8000,
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_pixels": 96 * 128 - 1}, "decompression_bomb"),
        ({"max_frames": 39}, "too_many_frames"),
        ({"max_seconds": 1.0}, "video_too_long"),
    ],
)
def test_limits(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        probe("video", clip(), **options)


def test_a_build_of_videos_and_audio(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    clips = {"a.mp4": clip(), "b.mkv": clip(format="matroska", frames=20), "d.mp4": clip()[:5000]}
    for name, data in {**clips, "c.wav": wav()}.items():
        (folder / name).write_bytes(data)
    (folder / "a.txt").write_text("a cat passes by")
    source = {"kind": "folder", "path": "in", "video": ["mp4", "mkv"], "audio": ["wav"]}
    spec = write_spec(tmp_path / "spec.yaml", source, [{"kind": "probe"}])
    build(spec)
    assert [(row.state, row.reason) for row in ledger(tmp_path / "out")][-1] == ("failed_permanent", "truncated_video")
    assert verify_dataset(tmp_path / "out").problems == []
    dataset = open_dataset(tmp_path / "out")
    assert [[part.kind for part in sample.media] for sample in dataset] == [["video"], ["video"], ["audio"]]
    assert dataset[0].texts == (Text(text="a cat passes by"),)
    for at, data in ((0, clips["a.mp4"]), (1, clips["b.mkv"])):
        media = dataset[at].media[0]
        assert media.packets is not None
        assert torch.equal(decode_frames(media, [9, 4]).pixels, decode_frames(data, [9, 4]).pixels)
    spec = write_spec(tmp_path / "again.yaml", source, [{"kind": "probe"}], output={"path": "again"})
    build(spec)
    assert content(tmp_path / "again") == content(tmp_path / "out")


def test_json_lines_name_videos_and_audio(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(clip())
    (tmp_path / "in" / "b.wav").write_bytes(wav())
    rows = [
        {"video": "a.mp4", "text": "a cat", "from": "us"},
        {"video": ["a.mp4"], "audio": "b.wav", "text": "both"},
        {"text": "nothing"},
        {"video": "../a.mp4", "text": "outside"},
    ]
    (tmp_path / "in" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = write_spec(tmp_path / "spec.yaml", {"kind": "jsonl", "path": "in/rows.jsonl"}, [{"kind": "probe"}])
    build(spec)
    dataset = open_dataset(tmp_path / "out")
    assert [[part.kind for part in sample.media] for sample in dataset] == [["video"], ["video", "audio"]]
    assert dataset[0].meta == {"from": "us"}
    assert [row.reason for row in ledger(tmp_path / "out")][2:] == ["bad_url", "path_escape"]
