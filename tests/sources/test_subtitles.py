"""Subtitle files, as they come: both formats, odd times and markup, and what is none."""

from __future__ import annotations

import pytest

from mmdata.errors import DataError
from mmdata.sources._subtitles import Cue, read, within

VTT = """\ufeffWEBVTT - a title
X-TIMESTAMP-MAP=LOCAL:00:00:00.000

STYLE
::cue { color: red }

NOTE two lines
of a note

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Anna>Hi &amp; <c.yellow>hello</c>

01:00:00.000 --> 01:00:01.000
late

00:00.500 --> 00:00.900
early
"""


def test_both_formats_are_read() -> None:
    assert read(VTT.encode(), "a.vtt") == [
        Cue(start=0.5, stop=0.9, text="early"),
        Cue(start=1.0, stop=2.5, text="Hi & hello"),
        Cue(start=3600.0, stop=3601.0, text="late"),
    ]
    srt = "1\r\n00:00:01,000 --> 00:00:02,000\r\na &amp; b\r\n\r\n2\r\n00:00:03,000 --> 00:00:04,000\r\n\r\n"
    assert read(srt.encode("utf-16"), "a.srt") == [Cue(start=1.0, stop=2.0, text="a &amp; b")]


def test_cues_of_a_clip_are_in_its_own_time() -> None:
    cues = [Cue(start=1.0, stop=2.0, text="a"), Cue(start=2.0, stop=5.0, text="b"), Cue(start=9.0, stop=9.5, text="c")]
    assert within(cues, 1.5, 3.0) == [Cue(start=0.0, stop=0.5, text="a"), Cue(start=0.5, stop=1.5, text="b")]
    assert within(cues, 2.0, None) == [Cue(start=0.0, stop=3.0, text="b"), Cue(start=7.0, stop=7.5, text="c")]
    assert within(cues, 6.0, 8.0) == []


@pytest.mark.parametrize("text", ["", "WEBVTT\n", "1\nsoon --> later\nx\n", "1\n00:00:02,000 --> 00:00:01,000\nx\n"])
def test_what_is_no_file_of_subtitles_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"bad_subtitles: a\.srt"):
        read(text.encode(), "a.srt")


def test_cues_without_lines_between() -> None:
    """All of a file became one cue, with times and numbers in its text."""
    times = [f"00:00:0{at},000 --> 00:00:0{at + 1},000" for at in (1, 3, 5)]
    srt = f"1\n{times[0]}\nHello\n2\n{times[1]}\n7\n3\n{times[2]}\n42"
    assert [(cue.start, cue.text) for cue in read(srt.encode(), "a.srt")] == [(1, "Hello"), (3, "7"), (5, "42")]
