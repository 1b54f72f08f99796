"""Say how pictures hold their colours; reject kinds, or bring all to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._pictures import Pixels, changed, grey, images
from mmdata.types import Drop, Media, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

Colour = Literal["colour", "colourless", "grey", "alpha", "palette", "cmyk", "sixteen_bit"]


@register("step", "colour_mode")
class ColourMode(StepSpec):
    """Write how a picture holds its colours as a column `colour` (of the first picture), drop samples with a picture of
    a rejected kind, as `colour_mode`, and bring the others `to` one mode. `probe` has rules for what is stored; this
    step also looks at the pixels: `colourless` is a picture with three channels that are equal, or nearly.

    Kinds: `sixteen_bit`, `cmyk`, `palette`, `alpha` and `grey` by the header, in this order; else `colourless` or
    `colour`."""

    needs_pixels: ClassVar[bool] = True

    kind: Literal["colour_mode"] = "colour_mode"
    reject: tuple[Colour, ...] = ()
    """Kinds that are dropped."""
    to: Literal["keep", "rgb", "grey"] = "keep"
    """`rgb`: three channels of 8 bits, alpha composited on white. `grey`: one. Pictures that are so already keep their
    bytes; others are encoded once."""
    tolerance: int = Field(3, ge=0, le=255)
    """Levels by which the channels of a pixel of a colourless picture may differ."""
    share: float = Field(0.999, gt=0, le=1)
    """Least share of such pixels."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        kinds = [self.colour(media, work) for media in images(sample)]
        if not kinds:
            return sample
        for found in kinds:
            if found in self.reject:
                return Drop(reason=self.kind, detail=found)
        if self.to != "keep":
            sample = changed(sample, work, lambda media, pixels: self._brought(media, pixels, work))
        return with_columns(sample, {"colour": kinds[0]})

    def colour(self, media: Media, work: Work) -> Colour:
        """The kind of a picture."""
        header = work.header(media)
        if header.bits > 8:
            return "sixteen_bit"
        if header.mode == "CMYK":
            return "cmyk"
        if header.mode in ("P", "PA"):
            return "palette"
        if header.alpha:
            return "alpha"
        if header.grey:
            return "grey"
        pixels = work.pixels(media)
        spread = pixels.max(axis=2) - pixels.min(axis=2)
        return "colourless" if (spread <= self.tolerance).mean() >= self.share else "colour"

    def _brought(self, media: Media, pixels: Pixels, work: Work) -> Pixels | None:
        header = work.header(media)
        plain = header.bits <= 8 and not header.alpha and header.mode not in ("P", "PA", "CMYK")
        if self.to == "rgb":
            return None if plain and not header.grey else pixels
        return None if plain and header.grey else grey(pixels)
