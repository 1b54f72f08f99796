"""Drop videos of too few frames a second, too few frames, or too small a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._films import videos, with_facts
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "video_shape")
class VideoShape(StepSpec):
    """Drop samples with a video outside these bounds. Looks at facts, or else at the file's packets; decodes nothing
    but a first frame. The reason is `video_shape`, and the detail says which. (`duration` bounds its length.)"""

    kind: Literal["video_shape"] = "video_shape"
    min_fps: float = Field(0.0, ge=0)
    """Average frames per second."""
    max_fps: float | None = Field(None, gt=0)
    min_frames: int = Field(1, ge=1)
    min_side: int = Field(1, ge=1)
    """Least length of the shorter side, in pixels of the upright picture."""
    max_side: int | None = Field(None, ge=1)
    """Greatest length of the longer side."""
    max_ratio: float | None = Field(None, ge=1)
    """Greatest ratio of the longer to the shorter side."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        for media in videos(sample):
            found = with_facts(media)
            assert found.height is not None, found
            assert found.width is not None, found
            short, long = sorted((found.height, found.width))
            fps = found.fps or 0.0
            for what, value, low, high in (
                ("frames a second", fps, self.min_fps, self.max_fps),
                ("frames", found.frames or 0, self.min_frames, None),
                ("pixels on the shorter side", short, self.min_side, None),
                ("pixels on the longer side", long, None, self.max_side),
                ("times as long as wide", long / short, None, self.max_ratio),
            ):
                if (low is not None and value < low) or (high is not None and value > high):
                    return Drop(reason=self.kind, detail=f"{value:.4g} {what}")
        return sample
