"""Find where audio has voice, and cut it into those segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._sounds import Wave, decibels, encoded, levels, rate_of, replaced, sounds, waveform
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

HOP = 0.010  # Seconds between frames, each of three times that.
FLOOR = 10  # Percentile of the frames' levels that is taken for the background.
QUIETEST = -60.0  # dB of full scale, below which nothing is voice.

Segment = tuple[int, int]


@register("step", "voice_activity")
class VoiceActivity(StepSpec):
    """Find the segments of audio that stand out from its background by level, write them as a column `speech` ([start,
    stop] in seconds, of the first audio) and their share of the time as `speech_share`, and drop samples below
    `min_share`, as `voice_activity`. Any sound that stands out counts; to tell voices from doors takes a model (`map`).

    With `cut: segments` audio is replaced by its segments, as parts of the same sample in their order, 16-bit FLAC.
    """

    kind: Literal["voice_activity"] = "voice_activity"
    above_db: float = Field(12.0, gt=0)
    """How far a frame must be above the background, the quietest tenth of the frames. Audio no frame of which is (there
    are no pauses) is one segment."""
    within_db: float = Field(35.0, gt=0)
    """How far below the loudest frame it may be."""
    min_speech: float = Field(0.1, ge=0)
    """Seconds: shorter segments are left out."""
    min_pause: float = Field(0.3, ge=0)
    """Seconds: segments that are closer than this are one."""
    pad: float = Field(0.05, ge=0)
    """Seconds added at both ends of a segment."""
    max_seconds: float | None = Field(None, gt=0)
    """Longest segment; longer ones are cut at their quietest frame."""
    min_share: float = Field(0.0, ge=0, le=1)
    cut: Literal["none", "segments"] = "none"
    """Whether the sample's audio is replaced."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.max_seconds is not None and self.max_seconds < 4 * max(self.min_speech, HOP):
            raise ValueError(f"max_seconds {self.max_seconds} is less than four times min_speech")
        if self._most is not None and self._most < 4:
            raise ValueError(f"max_seconds {self.max_seconds} leaves nothing between pad at both ends, {self.pad} each")
        return self

    @property
    def _most(self) -> int | None:
        """Frames of the longest segment, without its padding."""
        return None if self.max_seconds is None else int((self.max_seconds - 2 * self.pad) / HOP)

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        first = next(sounds(sample), None)
        if first is None:
            return sample
        rate = rate_of(first)
        wave = waveform(first)
        found = self.segments(wave, rate)
        share = round(sum(stop - start for start, stop in found) / max(1, len(wave)), 4)
        if share < self.min_share or (self.cut == "segments" and not found):
            return Drop(reason=self.kind, detail=f"{share:.1%} of it, below {self.min_share:.1%}")
        if self.cut == "segments":
            sample = replaced(sample, self._cut)
        speech = [[round(start / rate, 3), round(stop / rate, 3)] for start, stop in found]
        return with_columns(sample, {"speech": speech, "speech_share": share})

    def segments(self, wave: Wave, rate: int) -> list[Segment]:
        """Samples start <= i < stop of each segment of a mono waveform, in order, none overlapping."""
        hop = max(1, round(HOP * rate))
        level = decibels(levels(wave, 3 * hop, hop))
        if not len(level):
            return []
        peak, floor = float(level.max()), float(np.percentile(level, FLOOR))
        threshold = max(floor + self.above_db, peak - self.within_db)
        if threshold >= peak:  # Nothing stands out.
            threshold = peak - self.within_db
        loud = np.flatnonzero(level > max(threshold, QUIETEST))
        runs: list[list[int]] = []
        for at in loud.tolist():
            if runs and (at - runs[-1][1]) * HOP <= self.min_pause:
                runs[-1][1] = at + 1
            else:
                runs.append([at, at + 1])
        extra = round(self.pad * rate)
        found: list[Segment] = []
        for start, stop in runs:
            if (stop - start) * HOP < self.min_speech:
                continue
            for begin, end in self._pieces(level, start, stop):
                first, last = max(begin * hop - extra, found[-1][1] if found else 0), min(len(wave), end * hop + extra)
                if last > first:  # else it lies in the padding of the one before
                    found.append((first, last))
        return found

    def _pieces(self, level: np.ndarray, start: int, stop: int) -> list[Segment]:
        """A run of frames in pieces of at most `max_seconds`, padding included."""
        pieces, most = list[Segment](), self._most
        while most is not None and stop - start > most:
            low = start + most // 2
            at = low + int(level[low : start + most].argmin())
            pieces.append((start, at))
            start = at
        return [*pieces, (start, stop)]

    def _cut(self, media: Media) -> tuple[Media, ...]:
        wave, rate = waveform(media, mono=False), rate_of(media)
        return tuple(
            encoded(media, wave[:, start:stop], rate) for start, stop in self.segments(wave.mean(axis=0), rate)
        )
