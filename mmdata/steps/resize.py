"""Bring pictures to a size. A picture that has it already keeps its bytes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from mmdata.errors import DataError
from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps import _boxes
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.image import Encoded
    from mmdata.decode.work import Work
    from mmdata.native.pillow import Picture

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
Filter = Literal["area", "bicubic", "lanczos"]

# `area` shrinks by a whole factor with a box filter, leaving at least this much for an antialiased filter.
LEFT_OVER = 1.5
LONGEST: dict[str, int] = {"jpeg": 65_500, "webp": 16_383}
"""Pixels of the longest side that a format's encoder takes."""


@register("step", "resize")
class Resize(StepSpec):
    """Resize pictures by `mode`, never enlarging unless `upscale` says so. A picture that satisfies the mode (and the
    format) already is left byte for byte as it is; every other is decoded, resized and re-encoded once.

    What is written is RGB (grey stays grey), the first frame, with alpha composited on white, no metadata and no ICC
    profile (samples are not transformed by it). The boxes of a sample's only picture move with it.
    """

    kind: Literal["resize"] = "resize"
    mode: Literal["keep", "shortest", "longest", "border", "center_crop", "cap_pixels"] = "shortest"
    """`keep`: no resizing (only `format` acts). `shortest`, `longest`: that side becomes `size`. `border`: fitted into
    a white square of `size`. `center_crop`: the middle square of `size` (of a smaller picture: its own middle square).
    `cap_pixels`: shrunk to at most `pixels` pixels."""
    size: int | None = Field(None, ge=1, le=65_535)
    """Side length in pixels; needed by all modes but `keep` and `cap_pixels`."""
    pixels: int | None = Field(None, ge=1)
    """Most pixels (height times width); needed by `cap_pixels`."""
    upscale: bool = False
    """Enlarge pictures that are smaller than asked for; otherwise they are left as they are (`border` still pads)."""
    filter: Filter = "area"
    """`bicubic` and `lanczos` are Pillow's, antialiased, over the whole picture. `area` first averages whole blocks of
    pixels: faster, most of all where Pillow itself resizes and no compiled kernel; it is as near to bicubic
    (42-47 dB) as other libraries' area filters."""
    decode: Literal["exact", "scaled"] = "exact"
    """`scaled`: JPEGs are decoded at 1/2, 1/4 or 1/8 where that leaves at least `guard` times the size asked for.
    Cheaper and approximate; see `guard`."""
    guard: float = Field(1.5, ge=1.0, le=8.0)
    """How much larger than the result a scaled picture must be. Against exact decoding with bicubic, 120 pictures
    shrunk to 256: 44 dB on average and 32 for one in twenty (fine texture) at 1.5; 39 and 27 at 1, which is fastest."""
    format: Literal["same", "jpeg", "png", "webp"] = "same"
    """`same`: JPEG stays JPEG and WebP WebP, lossless formats become PNG, other lossy ones JPEG; only pictures that
    are resized are written. Another value also re-encodes pictures of every other format."""
    quality: int = Field(95, ge=1, le=100)
    """Quality of written JPEG (4:2:0) and WebP."""
    boxes: str | None = _boxes.COLUMN
    """The column of a picture's boxes, [left, top, right, bottom] in pixels (see `boxes`); null: nothing is moved."""

    @model_validator(mode="after")
    def _complete(self) -> Resize:
        if self.mode == "cap_pixels" and self.pixels is None:
            raise ValueError("mode 'cap_pixels' needs `pixels`")
        if self.mode not in ("keep", "cap_pixels") and self.size is None:
            raise ValueError(f"mode {self.mode!r} needs `size`")
        return self

    @property
    def needs_pixels(self) -> bool:
        """Whether exact pixels will be asked for, so that verification may as well decode them."""
        return self.decode == "exact" and (self.mode != "keep" or self.format != "same")

    @property
    def moves_points(self) -> bool:
        """Whether what lies somewhere in a picture may lie elsewhere afterwards."""
        return self.mode != "keep"

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        placed = _boxes.placed(sample, work)
        if isinstance(placed, Drop):
            return placed
        sample = placed
        sizes = [work.size(part) for part in sample.media if part.kind == "image"]
        parts = [
            self._resize(part, work) if isinstance(part, Media) and part.kind == "image" else part
            for part in sample.parts
        ]
        made = replace(sample, parts=tuple(parts))
        return self._moved(made, *sizes[0]) if len(sizes) == 1 else made

    def _moved(self, sample: Sample, height: int, width: int) -> Sample:
        tall, wide = self.target(height, width)
        to_height, to_width = self.shape(height, width)
        # What is cut or added lies on both sides, the odd pixel behind: `_cut` and `_pad` floor alike.
        shift = ((to_height - tall) // 2, (to_width - wide) // 2)
        if self.mode == "center_crop":
            shift = (-((tall - to_height) // 2), -((wide - to_width) // 2))
        if (tall, wide) == (height, width) == (to_height, to_width):
            return sample
        return _boxes.moved(sample, self.boxes, (tall / height, wide / width), shift)

    def _resize(self, media: Media, work: Work) -> Media:
        from mmdata.decode import image

        height, width = work.size(media)
        target = self.target(height, width)
        header = work.header(media)
        if self.shape(height, width) == (height, width) and self.format in ("same", header.format):
            return media
        assert media.data is not None  # work.header has read it.
        format: Encoded = self.format if self.format != "same" else image.family(media.data, header, alpha=False)
        if max(self.shape(height, width)) > LONGEST.get(format, 1 << 31):
            tall, wide = self.shape(height, width)
            raise DataError("too_long", f"{tall} x {wide} pixels: a side of {format} is {LONGEST[format]:,} at most")
        if self.decode == "scaled":
            source = work.scaled(media, min_height=target[0], min_width=target[1], guard=self.guard)
        else:
            source = work.picture(media)
        pixels = self._pad(self._cut(resample(source, *target, self.filter)))
        if header.grey:
            pixels = pixels[..., 0]
        data = image.encode(pixels, format, self.quality)
        return replace(
            media,
            data=data,
            format=format,
            height=pixels.shape[0],
            width=pixels.shape[1],
            mode="L" if header.grey else "RGB",
            frames=1,
        )

    def target(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after scaling, before anything is cut or padded.

        >>> Resize(mode="shortest", size=256).target(928, 1392)
        (256, 384)
        >>> Resize(mode="longest", size=256).target(100, 200), Resize(mode="cap_pixels", pixels=10_000).target(200, 300)
        ((100, 200), (81, 122))
        """
        if self.mode == "keep":
            return height, width
        if self.mode == "cap_pixels":
            assert self.pixels is not None
            ratio = math.sqrt(self.pixels / (height * width))
            if ratio >= 1 and not self.upscale:
                return height, width
            # Rounded down, so that the cap holds; a strip too thin for that is cut short by the other side.
            tall, wide = max(1, math.floor(height * ratio)), max(1, math.floor(width * ratio))
            return min(tall, self.pixels), min(wide, max(1, self.pixels // tall))
        assert self.size is not None
        side = min(height, width) if self.mode in ("shortest", "center_crop") else max(height, width)
        if side == self.size or (side < self.size and not self.upscale):
            return height, width
        return max(1, round(height * self.size / side)), max(1, round(width * self.size / side))

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result.

        >>> Resize(mode="center_crop", size=256).shape(928, 1392), Resize(mode="border", size=256).shape(10, 20)
        ((256, 256), (256, 256))
        """
        height, width = self.target(height, width)
        if self.mode == "center_crop":
            side = min(height, width)
            return side, side
        if self.mode == "border":
            assert self.size is not None
            return self.size, self.size
        return height, width

    def _cut(self, pixels: Pixels) -> Pixels:
        if self.mode != "center_crop":
            return pixels
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return pixels[top : top + side, left : left + side]

    def _pad(self, pixels: Pixels) -> Pixels:
        if self.mode != "border" or pixels.shape[:2] == (self.size, self.size):
            return pixels
        assert self.size is not None
        height, width = pixels.shape[:2]
        top, left = (self.size - height) // 2, (self.size - width) // 2
        square = np.full((self.size, self.size, 3), 255, np.uint8)
        square[top : top + height, left : left + width] = pixels
        return square


def resample(source: Picture, height: int, width: int, filter: Filter) -> Pixels:
    """Resize RGB pixels or a Pillow image of mode RGB to uint8 [height, width, 3], antialiased.

    `area` against direct bicubic, 52 photographs shrunk 1.2 to 6.4 times: 44.7 dB on average, 36 dB at worst (OpenCV's
    INTER_AREA: 45.0 and 36). Enlarging is bicubic.
    """
    from mmdata.native import pillow

    rows, columns = pillow.size(source)
    if (rows, columns) == (height, width):
        return np.asarray(source)
    if filter == "area" and min(rows / height, columns / width) > 1:
        # A mean over whole numbers of pixels first (Pillow's `reducing_gap`), then the shortest good filter.
        return pillow.resize(source, height, width, "hamming", LEFT_OVER)
    return pillow.resize(source, height, width, "lanczos" if filter == "lanczos" else "bicubic")
