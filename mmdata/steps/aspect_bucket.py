"""Assign pictures to buckets of equal shape, and cut them to it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps import _boxes
from mmdata.steps._columns import with_columns
from mmdata.steps._pictures import Pixels, changed, images
from mmdata.steps.resize import resample
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

Size = tuple[int, int]


@register("step", "aspect_bucket")
class AspectBucket(StepSpec):
    """Find the bucket whose aspect ratio is nearest to a picture's, and write its size as columns `bucket_height` and
    `bucket_width` (of the first picture). Batches can then be made of one shape. With `fit: crop` every picture is
    scaled to cover its bucket and cut to it, from the middle; one that would be enlarged drops its sample, as
    `aspect_bucket`. The boxes of a sample's only picture move with it.

    Buckets are given, or made as for NovelAI's and Stable Diffusion XL's training: sides in steps, about `pixels` each.
    """

    kind: Literal["aspect_bucket"] = "aspect_bucket"
    buckets: tuple[Size, ...] = ()
    """(height, width) of each. Default: made by what follows."""
    pixels: int = Field(1024 * 1024, ge=64)
    """Most pixels of a bucket."""
    step: int = Field(64, ge=1)
    """All sides are multiples of this."""
    max_ratio: float = Field(2.0, ge=1)
    """Longest bucket: its longer side to its shorter one."""
    fit: Literal["none", "crop"] = "none"
    """`none`: only the columns."""
    upscale: bool = False
    """Enlarge pictures that are smaller than their bucket."""
    boxes: str | None = _boxes.COLUMN
    """The column of a picture's boxes, which are moved with it (see `boxes`); null: nothing is moved."""

    @field_validator("buckets")
    @classmethod
    def _positive(cls, buckets: tuple[Size, ...]) -> tuple[Size, ...]:
        if any(min(size) < 1 for size in buckets):
            raise ValueError("buckets: sides are positive")
        return buckets

    @property
    def moves_points(self) -> bool:
        """Whether what lies somewhere in a picture may lie elsewhere afterwards."""
        return self.fit == "crop"

    @property
    def needs_pixels(self) -> bool:
        """Whether exact pixels will be asked for."""
        return self.fit == "crop"

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        placed = _boxes.placed(sample, work)
        if isinstance(placed, Drop):
            return placed
        sample = placed
        sizes = [work.size(media) for media in images(sample)]
        if not sizes:
            return sample
        if self.fit == "crop":
            for size in sizes:
                bucket = self.bucket(*size)
                if not self.upscale and (size[0] < bucket[0] or size[1] < bucket[1]):
                    detail = f"{size[1]}x{size[0]} is smaller than its bucket {bucket[1]}x{bucket[0]}"
                    return Drop(reason=self.kind, detail=detail)
            sample = changed(sample, work, self._fitted)
            if len(sizes) == 1:
                tall, wide, top, left = self._placed(*sizes[0])
                scale = (tall / sizes[0][0], wide / sizes[0][1])
                sample = _boxes.moved(sample, self.boxes, scale, (-top, -left))
        height, width = self.bucket(*sizes[0])
        return with_columns(sample, {"bucket_height": height, "bucket_width": width})

    def bucket(self, height: int, width: int) -> Size:
        """(height, width) of the bucket for a picture: the nearest logarithm of the ratio, of equals the largest.

        >>> AspectBucket().bucket(1080, 1920), AspectBucket().bucket(500, 500)
        ((768, 1344), (1024, 1024))
        """
        buckets = self.buckets or made(self.pixels, self.step, self.max_ratio)
        ratio = math.log(width / height)
        return min(buckets, key=lambda size: (round(abs(math.log(size[1] / size[0]) - ratio), 9), -size[0] * size[1]))

    def _fitted(self, media: Media, pixels: Pixels) -> Pixels | None:
        height, width = pixels.shape[:2]
        to_height, to_width = self.bucket(height, width)
        if (height, width) == (to_height, to_width):
            return None
        tall, wide, top, left = self._placed(height, width)
        scaled = resample(pixels, tall, wide, "area")
        return scaled[top : top + to_height, left : left + to_width]

    def _placed(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Height and width that a picture is scaled to, and top and left of its bucket in that."""
        to_height, to_width = self.bucket(height, width)
        scale = max(to_height / height, to_width / width)
        tall, wide = max(to_height, round(height * scale)), max(to_width, round(width * scale))
        return tall, wide, (tall - to_height) // 2, (wide - to_width) // 2


@lru_cache(maxsize=8)
def made(pixels: int, step: int, max_ratio: float) -> tuple[Size, ...]:
    """All sizes in steps that no further step of a side would keep within `pixels` and `max_ratio`.

    >>> made(256 * 256, 64, 2.0)
    ((192, 320), (256, 256), (320, 192))
    """
    sizes = set()
    for height in range(step, int(math.sqrt(pixels * max_ratio)) + 1, step):
        width = pixels // height // step * step
        if width and max(height, width) <= max_ratio * min(height, width):
            sizes.add((height, width))
            sizes.add((width, height))
    fullest = {(h, w) for h, w in sizes if not any(h <= a and w <= b and (h, w) != (a, b) for a, b in sizes)}
    return tuple(sorted(fullest or {(step, step)}))
