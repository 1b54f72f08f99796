"""Subtitles: SubRip (.srt) and WebVTT (.vtt) files as cues, and the cues of a clip."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmdata.errors import DataError
from mmdata.sources._tables import decoded

_TIMES = re.compile(r"^\s*((?:\d+:)?\d+:\d+(?:[.,]\d+)?)\s*-->\s*((?:\d+:)?\d+:\d+(?:[.,]\d+)?)")
_TAGS = re.compile(r"<[^>\n]*>|\{\\[^}\n]*\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """What is said from `start` to `stop`, in seconds."""

    start: float
    stop: float
    text: str


def read(data: bytes, name: str) -> list[Cue]:
    """The cues of a file, sorted by their times; markup is taken out, cues without text are left out. Raises DataError
    `bad_subtitles` where there is no cue at all, or one that ends before it begins.

    >>> read(b"1\\n00:00:01,500 --> 00:00:02,000\\n<i>Hello</i>\\nthere\\n", "a.srt")
    [Cue(start=1.5, stop=2.0, text='Hello\\nthere')]
    """
    text = decoded(data)
    cues: list[Cue] = []
    found = False
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.strip("\n").split("\n")
        at = next((number for number, line in enumerate(lines[:2]) if "-->" in line), None)
        times = _TIMES.match(lines[at]) if at is not None else None
        if times is None or at is None:
            if at is not None:
                raise DataError("bad_subtitles", f"{name}: {lines[at][:80]!r} are no times")
            continue  # WEBVTT, NOTE, STYLE, REGION
        found = True
        # Where the empty lines between cues are left out, the next one's number stands right above its times.
        starts = [number for number, line in enumerate(lines) if number == at or (number > at and _TIMES.match(line))]
        for first, end in itertools.pairwise([*starts, len(lines)]):
            last = end - 1 if end < len(lines) and lines[end - 1].strip().isdigit() else end
            cue = _cue(lines[first], lines[first + 1 : last], name)
            cues += [cue] if cue.text else []
    if not found:
        raise DataError("bad_subtitles", f"{name}: no cue (`00:00:01,000 --> 00:00:02,000`) in it")
    return sorted(cues, key=lambda cue: (cue.start, cue.stop))


def _cue(line: str, said: Sequence[str], name: str) -> Cue:
    times = _TIMES.match(line)
    assert times is not None, line
    start, stop = seconds(times[1]), seconds(times[2])
    if stop < start:
        raise DataError("bad_subtitles", f"{name}: a cue ends before it begins: {line[:80]!r}")
    plain = [_TAGS.sub("", each) for each in said]
    words = "\n".join(each.strip() for each in plain if each.strip())
    return Cue(start=start, stop=stop, text=html.unescape(words) if name.lower().endswith(".vtt") else words)


def within(cues: Sequence[Cue], start: float, stop: float | None) -> list[Cue]:
    """The cues that are shown during a clip, in its own time.

    >>> within([Cue(start=1, stop=3, text="a"), Cue(start=5, stop=6, text="b")], 2.0, 4.0)
    [Cue(start=0.0, stop=1.0, text='a')]
    """
    end = float("inf") if stop is None else stop
    return [
        Cue(start=max(0.0, round(cue.start - start, 6)), stop=round(min(cue.stop, end) - start, 6), text=cue.text)
        for cue in cues
        if cue.start < end and cue.stop > start
    ]


def seconds(text: str) -> float:
    """Seconds of a time of day, `01:02:03,5`, `02:03.5` or `3.5`. Raises ValueError.

    >>> seconds("01:02:03,500"), seconds("02:03.5"), seconds("3.5")
    (3723.5, 123.5, 3.5)
    """
    total = 0.0
    for part in text.strip().replace(",", ".").split(":"):
        total = total * 60 + float(part)
    return total
