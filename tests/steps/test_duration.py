"""Lengths of audio and video, with facts and without."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mmdata.steps.duration import Duration
from mmdata.types import Media
from tests.decode.clips import clip
from tests.decode.pictures import photo, save
from tests.steps.given import build, image, record
from tests.steps.recordings import audio, tone


def test_a_build(tmp_path: Path) -> None:
    video = [Media(kind="video", data=clip(frames=frames)) for frames in (10, 40)]
    records = [record(audio(tone(length, -6))) for length in (0.2, 1.0, 2.5)]
    records += [record(one) for one in video]
    records += [record(image(save(photo(16, 16), "PNG"))), record(audio(tone(1, -6)), video[0])]
    step = {"kind": "duration", "min_seconds": 0.5, "max_seconds": 2}
    expected = ["duration", "", "duration", "duration", "", "", "duration"]
    built = build(tmp_path, records, [step])
    assert built.reasons == expected
    assert built.details[0] == "0.200 s of audio, below 0.5"
    assert built.details[3].startswith("0.333 s of video")
    assert all(row.thumbnail for row in built.ledger if row.reason), "rejected sounds and videos are shown, too"
    assert build(tmp_path, records, [{"kind": "probe"}, step], name="probed").reasons == expected


def test_mistakes() -> None:
    with pytest.raises(ValidationError, match="nothing would be kept"):
        Duration(min_seconds=3, max_seconds=2)
