"""Turn videos into pictures: a few of their frames."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._films import pictures, table, times, with_facts
from mmdata.steps.mark_frames import MarkFrames
from mmdata.types import Drop, Media, Sample, Text

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "keyframe_images")
class KeyframeImages(StepSpec):
    """Put pictures of some frames in a video's place, as parts of the same sample in their order; when they are shown
    is written as a column `frame_times`, in seconds, of the first video. All pictures of a video stay in one sample, so
    that no split parts them."""

    kind: Literal["keyframe_images"] = "keyframe_images"
    pick: Literal["keyframes", "scenes", "uniform"] = "keyframes"
    """`keyframes`: frames at which decoding can start. `scenes`: the middle frame of each scene (as `mark_frames` finds
    them). `uniform`: evenly spread."""
    most: int = Field(8, ge=1)
    """Most pictures of a video; of more frames, that many evenly spread ones are taken."""
    keep_video: bool = False
    """Whether the video stays, before its pictures."""
    quality: int = Field(92, ge=1, le=100)
    """Of the JPEGs."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        from mmdata.decode import image

        parts: list[Text | Media] = []
        columns: dict[str, list[float]] = {}
        for part in sample.parts:
            if not isinstance(part, Media) or part.kind != "video":
                parts.append(part)
                continue
            wanted = self.frames(with_facts(part))
            if self.keep_video:
                parts.append(part)
            for pixels in pictures(part, wanted):
                data = image.encode(np.ascontiguousarray(pixels), "jpeg", self.quality)
                height, width = pixels.shape[:2]
                parts.append(
                    Media(kind="image", data=data, format="jpeg", height=height, width=width, mode="RGB", frames=1)
                )
            columns.setdefault("frame_times", [round(float(times(part)[at]), 3) for at in wanted])
        return with_columns(replace(sample, parts=tuple(parts)), columns) if columns else sample

    def frames(self, media: Media) -> list[int]:
        """The frames that are taken, ascending."""
        from mmdata.decode.packets import keyframes

        count = len(times(media))
        if self.pick == "keyframes":
            found = [int(at) for at in keyframes(table(media))] or [0]
        elif self.pick == "scenes":
            cuts = media.marks["scenes"] if "scenes" in media.marks else MarkFrames().marks(media)
            bounds = sorted({0, *cuts, count})
            found = [(start + stop) // 2 for start, stop in itertools.pairwise(bounds)]
        else:
            return sorted({(2 * at + 1) * count // (2 * self.most) for at in range(self.most)})
        if len(found) <= self.most:
            return found
        return [found[(2 * at + 1) * len(found) // (2 * self.most)] for at in range(self.most)]
