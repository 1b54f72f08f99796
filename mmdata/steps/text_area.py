"""Estimate how much of a picture is writing, and drop pages, memes and screenshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._pictures import Pixels, grey, images, reduced
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 4
CELL = 16  # Pixels of a cell's side.
CONTRAST = 60  # Levels between the darkest and the brightest pixel of a cell.
TWO_TONE = 0.6  # Share of a cell's pixels that are nearly as dark or as bright as that: ink or paper.
STROKES = 1.0  # Changes between dark and bright along a row of a cell, on average.
LINE = 4  # Cells of writing that follow each other in a line.


@register("step", "text_area")
class TextArea(StepSpec):
    """Estimate the share of a picture that is covered by lines of writing and write it as a column `text_area`, the
    largest of several pictures; drop samples outside the bounds, as `text_area`. It is a heuristic on brightness: cells
    that are of two tones with several strokes across, in rows. It reads nothing, is for horizontal writing of ordinary
    size, and takes gratings and bar codes for text; a text detector through `map` or a column is better."""

    needs_pixels: ClassVar[bool] = True

    kind: Literal["text_area"] = "text_area"
    min: float = Field(0.0, ge=0, le=1)
    max: float = Field(1.0, ge=0, le=1)
    """Largest share. Pages have 0.2 to 0.8, photographs 0 to 0.06 as a rule."""
    longest: int = Field(768, ge=64)
    """Larger pictures are first averaged down to sides of at most so many pixels."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        values = [text_area(reduced(grey(work.pixels(media)), self.longest)) for media in images(sample)]
        if not values:
            return sample
        value = round(max(values), PLACES)
        if not self.min <= value <= self.max:
            return Drop(reason=self.kind, detail=f"{value:.1%} of it, not within {self.min:.1%} to {self.max:.1%}")
        return with_columns(sample, {"text_area": value})


def text_area(grey: Pixels) -> float:
    """The share of u8[H, W] that is writing."""
    rows, columns = grey.shape[0] // CELL, grey.shape[1] // CELL
    if not rows or not columns:
        return 0.0
    cells = grey[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL).swapaxes(1, 2).astype(np.int16)
    low, high = cells.min(axis=(2, 3)), cells.max(axis=(2, 3))
    margin = ((high - low) // 4)[..., None, None]
    tones = ((cells <= low[..., None, None] + margin) | (cells >= high[..., None, None] - margin)).mean(axis=(2, 3))
    bright = cells > ((low + high) // 2)[..., None, None]
    strokes = (bright[..., 1:] != bright[..., :-1]).sum(axis=3).mean(axis=2)
    writing = (high - low >= CONTRAST) & (tones >= TWO_TONE) & (strokes >= STROKES)
    return float(_lines(writing).mean())


def _lines(writing: np.ndarray) -> np.ndarray:
    """Of cells [rows, columns], those in runs of at least LINE in a row; single gaps between words are bridged.

    >>> _lines(np.array([[1, 1, 0, 1, 1, 0, 0, 1, 1]], bool)).astype(int).tolist()
    [[1, 1, 0, 1, 1, 0, 0, 0, 0]]
    """
    wide = np.pad(writing, ((0, 0), (1, 1)))
    bridged = np.pad(writing | (wide[:, :-2] & wide[:, 2:]), ((0, 0), (1, 1)))
    edges = np.diff(bridged.astype(np.int8), axis=1)
    kept = np.zeros_like(writing)
    for row, start in np.argwhere(edges == 1):
        stop = start + int((edges[row, start:] == -1).argmax())
        if stop - start >= LINE:
            kept[row, start:stop] = True
    lines: np.ndarray = kept & writing
    return lines
