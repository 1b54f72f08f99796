"""Cues of SubRip, WebVTT and columns, and the clips that they go to."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdata.errors import DataError
from mmdata.steps.subtitle_align import SubtitleAlign, parse
from mmdata.types import Drop, Media, Text
from tests.steps.footage import film
from tests.steps.given import apply, build, record

SRT = """1
00:00:00,100 --> 00:00:00,900
{\\an8}<i>A cat</i> &amp; a mat.

2
00:00:00,900 --> 00:00:02,000
Some coffee,
please.

3
00:00:02,600 --> 00:00:03,400
Lift-off!
"""
VTT = """WEBVTT - a title

NOTE 00:99 is no time

intro
00:00.100 --> 00:00.900 align:start position:0%
<v Ann>A cat &amp; a mat.

00:00:00.900 --> 00:00:02.000
Some coffee,
please.

00:00:02.600 --> 00:00:03.400
Lift-off!
"""


def test_both_formats_say_the_same() -> None:
    expected = [(0.1, 0.9, "A cat & a mat."), (0.9, 2.0, "Some coffee,\nplease."), (2.6, 3.4, "Lift-off!")]
    assert [tuple(cue) for cue in parse(SRT)] == expected
    assert [tuple(cue) for cue in parse(VTT)] == expected
    assert parse("﻿" + SRT.replace("\n", "\r\n")) == parse(SRT)
    assert parse("WEBVTT\n") == parse("") == []
    assert parse("01:02:03,004 --> 01:02:04,000\nx")[0].start == 3723.004
    with pytest.raises(DataError, match="subtitles"):
        parse("no subtitles at all")


def test_numbers_of_cues_are_not_said() -> None:
    """Where empty lines hold spaces, or are left out; a number that is said stays."""
    cues = [
        "00:00:01,000 --> 00:00:02,000\nHello",
        "00:00:03,000 --> 00:00:04,000\n7",
        "00:00:05,000 --> 00:00:06,000\n42",
    ]
    for between in ("\n\n", "\n \t\n", "\r\n\r\n", "\n"):
        text = between.join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))
        assert [cue.text for cue in parse(text)] == ["Hello", "7", "42"]


def test_a_build(tmp_path: Path) -> None:
    video = film(("cat", 20, 1), ("coffee", 30, 1), ("rocket", 20, 1))
    steps = [{"kind": "scene_clips", "min_scene": 5}, {"kind": "subtitle_align", "silent": "drop"}]
    cue = {"start": 1.2, "end": 2.0, "text": "coffee"}
    records = [
        record(video, cues=VTT),
        record(video, cues=[cue]),
        record(video, cues="00:01:00.000 --> 00:01:01.000\nlater"),
        record(video, cues="nothing"),
        record(video),
    ]
    built = build(tmp_path, records, steps)
    assert built.reasons == ["", "", "subtitle_align", "subtitles", "subtitle_align"]
    first, second = built.samples
    kinds = [part.text if isinstance(part, Text) else part.kind for part in first.parts]
    assert kinds == ["video", "A cat & a mat.", "video", "Some coffee, please.", "video", "Lift-off!"]
    assert [part.text if isinstance(part, Text) else part.kind for part in second.parts] == ["video", "coffee"]
    assert second.meta["clips"] == [[1.0, 2.5]]
    assert "cues" not in first.meta


def test_what_the_source_writes() -> None:
    """Times of the last texts, whatever place a step has moved them to."""
    video = film(("cat", 20, 1))
    times = [{"part": 2, "start": 0.1, "stop": 0.4}, {"part": 3, "start": 0.4, "stop": 0.9}]
    found = apply(SubtitleAlign(), "a film", video, "one", "two", cues=times)
    assert not isinstance(found, Drop)
    assert [part.text if isinstance(part, Text) else part.kind for part in found.parts] == [
        "a film",
        "video",
        "one two",
    ]
    with pytest.raises(DataError, match="times of 2 cues, and 1 texts"):
        apply(SubtitleAlign(), video, "one", cues=times)


def test_an_uncut_video_rolling_lines_and_offsets() -> None:
    video = film(("cat", 20, 1))
    rolling = "\n\n".join(
        f"00:00.{a}00 --> 00:00.{b}00\n{text}" for a, b, text in ((1, 3, "one"), (3, 5, "one\ntwo"), (5, 9, "two"))
    )
    found = apply(SubtitleAlign(role="document"), video, cues=rolling)
    assert not isinstance(found, Drop)
    assert [(text.role, text.text) for text in found.texts] == [("document", "one two")]
    shifted = apply(SubtitleAlign(offset=0.7), video, cues=rolling)
    assert [text.text for text in shifted.texts] == ["one"]  # type: ignore[union-attr]
    assert apply(SubtitleAlign(offset=5), video, cues=rolling).texts == ()  # type: ignore[union-attr]
    with pytest.raises(DataError, match="a cue is"):
        apply(SubtitleAlign(), video, cues=[{"text": "x"}])
    two = Media(kind="video", data=video.data)
    with pytest.raises(DataError, match="2 videos"):
        apply(SubtitleAlign(), video, two)
