"""Put subtitles beside the clips in which they are spoken."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from mmdata.errors import DataError
from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._sounds import seconds
from mmdata.types import Drop, Media, Sample, Text

if TYPE_CHECKING:
    from mmdata.decode.work import Work

TIME = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
TIMING = re.compile(rf"^\s*{TIME}\s*-->\s*{TIME}", re.MULTILINE)
EMPTY = re.compile(r"\n[ \t]*\n")
LAST_NUMBER = re.compile(r"\n\s*\d+\s*\Z")
MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


class Cue(NamedTuple):
    """What is said from `start` to `stop`, in seconds."""

    start: float
    stop: float
    text: str


@register("step", "subtitle_align")
class SubtitleAlign(StepSpec):
    """Take subtitles from a column and put what is said during each video part behind it, as a text. After
    `scene_clips` (whose column `clips` says where the parts were) each cue goes to the clip that it overlaps most; a
    video that was not cut gets all of its own. Lines that a cue repeats from the one before (rolling captions) are left
    out.

    A column `spoken` says which video parts have a text behind them, so that each can become a sample with its own
    (source `dataset`, `each: video`). Parts without words stay, or are removed with `silent: drop`; a sample of which
    none is left is dropped, as `subtitle_align`. A column that cannot be read ends the record as `failed_permanent:
    subtitles`.
    """

    kind: Literal["subtitle_align"] = "subtitle_align"
    column: str = "cues"
    """The column: what the source `video` writes (times of the sample's last texts, which then move), SubRip or WebVTT
    as text, or a list of {start, stop (or end), text}, in seconds."""
    role: str = "caption"
    """Role of the texts."""
    offset: float = 0.0
    """Seconds added to all times of the subtitles."""
    silent: Literal["keep", "drop"] = "keep"
    least_overlap: float = Field(0.5, ge=0, le=1)
    """Least share of a cue's time that lies in its clip."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        films = [part for part in sample.media if part.kind == "video"]
        if not films:
            return sample
        value = sample.meta.get(self.column)
        if isinstance(value, list) and value and all(isinstance(cue, dict) and "part" in cue for cue in value):
            sample, value = _taken(sample, value)
        cues = _cues(value)
        spans = sample.meta.get("clips") or [[0.0, seconds(films[0])]]
        if len(spans) != len(films):
            raise DataError("subtitles", f"{len(films)} videos, and times of {len(spans)}: only one may be cut")
        said = self._said(cues, spans)
        parts: list[Text | Media] = []
        at = 0
        for part in sample.parts:
            if not isinstance(part, Media) or part.kind != "video":
                parts.append(part)
                continue
            if said[at]:
                parts += [part, Text(text=said[at], role=self.role)]
            elif self.silent == "keep":
                parts.append(part)
            at += 1
        if self.silent == "drop" and not any(said):
            return Drop(reason=self.kind, detail=f"none of {len(cues)} cues lies in a clip")
        kept = [span for span, text in zip(spans, said, strict=True) if text or self.silent == "keep"]
        meta = {name: value for name, value in sample.meta.items() if name != self.column}
        spoken = [bool(text) for text in said if text or self.silent == "keep"]
        return with_columns(replace(sample, parts=tuple(parts), meta=meta), {"clips": kept, "spoken": spoken})

    def _said(self, cues: list[Cue], spans: list[list[float]]) -> list[str]:
        lines: list[list[str]] = [[] for _ in spans]
        for cue in cues:
            start, stop = cue.start + self.offset, cue.stop + self.offset
            overlaps = [min(stop, end) - max(start, begin) for begin, end in spans]
            best = max(range(len(spans)), key=lambda at: overlaps[at])
            if overlaps[best] <= 0 or overlaps[best] < self.least_overlap * (stop - start):
                continue
            lines[best] += [line for line in cue.text.split("\n") if line not in lines[best][-2:]]
        return [" ".join(found) for found in lines]


def _taken(sample: Sample, times: list[dict[str, Any]]) -> tuple[Sample, list[dict[str, Any]]]:
    """The sample without its last texts, which are those of the cues (a step may have moved their places), and the cues
    with them."""
    last = [at for at, part in enumerate(sample.parts) if isinstance(part, Text)][-len(times) :]
    if len(last) < len(times):
        raise DataError("subtitles", f"times of {len(times)} cues, and {len(last)} texts")
    texts = [text.text for text in sample.texts[-len(times) :]]
    parts = tuple(part for at, part in enumerate(sample.parts) if at not in last)
    return replace(sample, parts=parts), [{**cue, "text": text} for cue, text in zip(times, texts, strict=True)]


def _cues(value: Any) -> list[Cue]:
    """The cues of a column, by their times. Raises DataError `subtitles`."""
    if value is None:
        return []
    if isinstance(value, str):
        return sorted(parse(value))
    try:
        made = [Cue(float(v["start"]), float(v.get("stop", v.get("end"))), str(v["text"]).strip()) for v in value]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError("subtitles", f"a cue is {{start, stop, text}}: {type(error).__name__}: {error}") from error
    return sorted(cue for cue in made if cue.text and cue.stop > cue.start)


def parse(text: str) -> list[Cue]:
    """The cues of SubRip or WebVTT, without markup. Raises DataError `subtitles` where there is no timing line.

    >>> parse("1\\n00:00:01,500 --> 00:00:03,000\\n<i>Good</i> morning\\n\\n2\\n00:00:04,000 --> 00:00:05,000\\nYes.")
    [Cue(start=1.5, stop=3.0, text='Good morning'), Cue(start=4.0, stop=5.0, text='Yes.')]
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    found = list(TIMING.finditer(text))
    if text.strip() and not found and not text.startswith("WEBVTT"):
        raise DataError("subtitles", "no line of times, `00:00:01,000 --> 00:00:02,000`")
    cues = []
    for at, timing in enumerate(found):
        line_end = text.find("\n", timing.end())
        body = text[line_end + 1 : found[at + 1].start() if at + 1 < len(found) else len(text)] if line_end >= 0 else ""
        body, *name = EMPTY.split(body, maxsplit=1)  # What follows an empty line is the next cue's name.
        if not name and at + 1 < len(found):  # without one its number stands right below
            body = LAST_NUMBER.sub("", body)
        clean = html.unescape(MARKUP.sub("", body))
        lines = [" ".join(line.split()) for line in clean.split("\n")]
        said = "\n".join(line for line in lines if line)
        start, stop = (_seconds(*timing.groups()[first : first + 4]) for first in (0, 4))
        if said and stop > start:
            cues.append(Cue(start, stop, said))
    return cues


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000
