"""Blur regions of pictures that a detector of the user's, or a column, says are faces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from mmdata.errors import DataError, SpecError
from mmdata.registry import plugin_function, register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._pictures import Pixels, changed, images
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

CELLS = 6
"""Cells along the longer side of a region: too few to tell who it is."""


@register("step", "face_blur")
class FaceBlur(StepSpec):
    """Blur faces, or whatever is found: by a `detector` of the user's, or by boxes that a column holds already. A
    region is averaged over a few cells, from which nobody can be told or restored, and smoothed. A picture without
    regions keeps its bytes; others are encoded once, and their number of regions is written as a column `blurred`.

    No detector comes with this package.
    """

    needs_pixels: ClassVar[bool] = True

    kind: Literal["face_blur"] = "face_blur"
    detector: str | None = None
    """`module.function` of a plugin (see `map`): takes uint8 [H, W, 3] (RGB, upright) and answers boxes (top, left,
    height, width) in pixels."""
    boxes: str | None = None
    """A column with such boxes, for samples with one picture: of the picture as it came, so that steps which resize or
    cut it stand behind this one."""
    grow: float = Field(0.15, ge=0, le=2)
    """How much of its size is added to a region on each side."""

    @field_validator("detector")
    @classmethod
    def _found(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                plugin_function(value)
        except SpecError as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.detector is None) == (self.boxes is None):
            raise ValueError("give `detector` or `boxes`, one of them")
        return self

    @property
    def reads_points(self) -> bool:
        """Whether it reads places in a picture as it came."""
        return self.boxes is not None

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        count, pictures = 0, sum(1 for _ in images(sample))

        def blurred(media: Media, pixels: Pixels) -> Pixels | None:
            nonlocal count
            if self.detector is not None:
                boxes: Any = plugin_function(self.detector)(pixels)
            else:
                boxes = sample.meta.get(self.boxes or "") or ()
                if not isinstance(boxes, list | tuple):
                    raise DataError("face_blur_box", f"{self.boxes}: a list of boxes is wanted, not {boxes!r}")
                if boxes and pictures > 1:
                    raise DataError(
                        "face_blur_box", f"{self.boxes}: it does not say which of {pictures} pictures it is of"
                    )
            made = pixels.copy()
            found = [box for box in (_box(box, self.grow, *pixels.shape[:2]) for box in boxes) if box is not None]
            for top, left, bottom, right in found:
                made[top:bottom, left:right] = _smeared(made[top:bottom, left:right])
            count += len(found)
            return made if found else None

        sample = changed(sample, work, blurred)
        return with_columns(sample, {"blurred": count}) if count else sample


def _box(box: Any, grow: float, height: int, width: int) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of a region, grown, inside the picture; None where nothing of it is."""
    try:
        top, left, tall, wide = (float(value) for value in box)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("face_blur_box", f"a box is (top, left, height, width), not {box!r}") from error
    up, down = max(0.0, top - grow * tall), min(float(height), top + (1 + grow) * tall)
    near, far = max(0.0, left - grow * wide), min(float(width), left + (1 + grow) * wide)
    if not (down > up and far > near):
        return None
    return int(up), int(near), int(np.ceil(down)), int(np.ceil(far))


def _smeared(region: Pixels) -> Pixels:
    from PIL import Image

    height, width = region.shape[:2]
    scale = CELLS / max(height, width)
    cells = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(region).resize(cells, Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
