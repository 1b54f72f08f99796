"""Look at every frame of a video once, when the dataset is built, and record which of them matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

CHUNK = 8
"""Frames decoded ahead: what is held of a video, however long it is."""


@register("step", "mark_frames")
class MarkFrames(StepSpec):
    """Record frames of every video as a fact (`marks`), by which a stream may choose: rules `scenes`, `motion`,
    `adaptive` and `keyframe` of a video view. Decodes every frame, in the memory of a few."""

    kind: Literal["mark_frames"] = "mark_frames"
    find: Literal["scenes", "keys", "motion"] = "scenes"
    """`scenes`: the first frame of each scene but the first, as PySceneDetect finds them. `keys`: the frames at which
    the content changes, by colour histogram and motion. `motion`: the frames of most motion. Also the mark's name."""
    detector: Literal["content", "adaptive"] = "content"
    """For `scenes`: PySceneDetect's detector."""
    threshold: float | None = Field(None, gt=0)
    """For `scenes`: the least score of a cut, 27 for `content`, or the least ratio to its neighbours, 3, for
    `adaptive`. For `keys`: the least change, 0.3 of 1."""
    min_scene: int = Field(15, ge=0)
    """For `scenes`: the least length of a scene, in frames."""
    num_frames: int = Field(32, ge=1)
    """For `motion`: how many frames at most."""
    spacing: float = Field(0.5, ge=0)
    """For `motion`: the least time between two frames, in seconds."""

    @model_validator(mode="after")
    def _threshold_has_a_use(self) -> MarkFrames:
        if self.find == "motion" and self.threshold is not None:
            raise ValueError("find: motion has no threshold; it has num_frames and spacing")
        return self

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        parts = [
            self._marked(part) if isinstance(part, Media) and part.kind == "video" else part for part in sample.parts
        ]
        return replace(sample, parts=tuple(parts))

    def _marked(self, media: Media) -> Media:
        return replace(media, marks={**media.marks, self.find: self.marks(media)})

    def marks(self, media: Media) -> tuple[int, ...]:
        """The frames, 0-based, in presentation order. Raises DataError as `decode.video.iter_frames` does."""
        from mmdata.views import frames, motion, scenes

        times: list[float] = []
        pictures = _pictures(media, times)
        if self.find == "scenes":
            scores = scenes.content_scores(pictures)
            if self.detector == "adaptive":
                ratio = 3.0 if self.threshold is None else self.threshold
                return scenes.adaptive_cuts(scores, ratio=ratio, min_scene=self.min_scene)
            threshold = 27.0 if self.threshold is None else self.threshold
            return scenes.content_cuts(scores, threshold=threshold, min_scene=self.min_scene)
        if self.find == "keys":
            return motion.key_frames(pictures, threshold=0.3 if self.threshold is None else self.threshold)
        flow = [change.flow for change in motion.changes(pictures)]
        number = min(self.num_frames, len(flow))
        return frames.motion(len(flow), number, scores=flow, times=times, spacing=self.spacing)


def _pictures(media: Media, times: list[float]) -> Iterator[np.ndarray]:
    """Each frame, uint8 [H, W, 3]; the time at which it is shown is added to `times`."""
    from mmdata.decode.video import iter_frames

    for _, piece in iter_frames(media, chunk=CHUNK):
        times += piece.seconds.tolist()
        yield from piece.pixels.permute(0, 2, 3, 1).numpy()
