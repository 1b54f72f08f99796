"""Cut videos at their scenes into clips."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._films import clip, times, with_facts
from mmdata.steps.mark_frames import MarkFrames
from mmdata.types import Drop, Media, Sample, Text

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "scene_clips")
class SceneClips(StepSpec):
    """Replace each video by clips of its scenes, as parts of the same sample in their order, each with its sound,
    encoded anew (MP4 of H.264 and AAC). Where they were is written as a column `clips`, [start, stop] in seconds, of
    the first video. A sample of which no clip is left is dropped, as `scene_clips`.

    Cuts are those of PySceneDetect (see `mark_frames`, whose marks are used where they are there). Clips stay in one
    sample, so that no split or shuffle parts them.
    """

    kind: Literal["scene_clips"] = "scene_clips"
    detector: Literal["content", "adaptive"] = "content"
    threshold: float | None = Field(None, gt=0)
    min_scene: int = Field(15, ge=0)
    """Least length of a scene, in frames."""
    min_seconds: float = Field(0.5, ge=0)
    """Shorter clips are left out."""
    max_seconds: float | None = Field(None, gt=0)
    """Longer scenes are cut into equal clips of at most this length."""
    crf: int = Field(18, ge=0, le=51)
    """Quality of x264, 0 the best; 18 is nearly transparent, 23 the usual."""
    whole: Literal["keep", "encode"] = "keep"
    """A video that is one scene: `keep` its bytes, or `encode` it like the others."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_seconds is not None and self.max_seconds < 2 * self.min_seconds:
            raise ValueError(f"max_seconds {self.max_seconds} is less than twice min_seconds: clips would be lost")
        return self

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        parts: list[Text | Media] = []
        columns: dict[str, list[list[float]]] = {}
        for part in sample.parts:
            if not isinstance(part, Media) or part.kind != "video":
                parts.append(part)
                continue
            found = with_facts(part)
            shown = times(found)
            spans = self.spans(found)
            if not spans:
                return Drop(reason=self.kind, detail=f"no scene of {self.min_seconds:g} s or more")
            ends = [*shown.tolist(), found.seconds or 0.0]
            columns.setdefault("clips", [[round(ends[a], 3), round(ends[b], 3)] for a, b in spans])
            if spans == [(0, len(shown))] and self.whole == "keep":
                parts.append(part)
            else:
                parts += [clip(found, start, stop, crf=self.crf) for start, stop in spans]
        return with_columns(replace(sample, parts=tuple(parts)), columns) if columns else sample

    def spans(self, media: Media) -> list[tuple[int, int]]:
        """Frames start <= i < stop of each clip."""
        shown = times(media)
        ends = [*shown.tolist(), media.seconds or 0.0]
        finder = MarkFrames(detector=self.detector, threshold=self.threshold, min_scene=self.min_scene)
        cuts = media.marks["scenes"] if "scenes" in media.marks else finder.marks(media)
        bounds = sorted({0, *cuts, len(shown)})
        found = []
        for start, stop in itertools.pairwise(bounds):
            length = ends[stop] - ends[start]
            pieces = 1 if self.max_seconds is None else int(np.ceil(length / self.max_seconds - 1e-9))
            inner = [ends[start] + length * piece / pieces for piece in range(1, pieces)]
            edges = [start, *(int(np.searchsorted(shown, at - 1e-9)) for at in inner), stop]
            found += [(a, b) for a, b in itertools.pairwise(edges) if a < b]
        return [(a, b) for a, b in found if ends[b] - ends[a] >= self.min_seconds]
