"""Drop samples whose picture looks like that of an earlier kept sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mmdata.hamming import HammingIndex
from mmdata.registry import register
from mmdata.spec import OrderedState, OrderedStepSpec
from mmdata.steps._kept import Keys
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

GRID = 32  # The picture is averaged onto so many by so many cells ...
LOW = 8  # ... and its so many by so many lowest frequencies make the hash.
PREVIEW = 2 * GRID  # Pixels of the shorter side that are enough for those averages.
GREY = 256  # Units of a cell: 1/256 grey level.
COSINE = 4096  # Units of a cosine.
FLAT = 1.0  # Grey levels.


@register("step", "near_dup")
class NearDup(OrderedStepSpec):
    """Drop a sample whose picture is near that of an earlier kept sample: recompressed, resized, lightly edited or
    cropped. It ends as `duplicate`, with the key of the nearest kept sample (the earliest of several).

    Pictures are compared by a 64-bit perceptual hash (pHash): brightness averaged onto 32x32 cells, its 2-D cosine
    transform, one bit for each of the 8x8 lowest frequencies, set where it is above their median. Colour and aspect
    ratio do not enter. Two pictures are near if at most `radius` bits differ. Every such pair is found, in
    sub-quadratic time (see mmdata.hamming).

    **Flat pictures** (rule `flat`: those lowest frequencies together move brightness by less than 1 of 255 grey
    levels, root mean square) have no structure that a hash could hold, and are left to `exact_dedup`. So are
    samples with several media, or with video or audio.
    """

    needs_preview: ClassVar[bool] = True
    kind: Literal["near_dup"] = "near_dup"
    radius: int = Field(6, ge=0, le=16)
    """Greatest number of differing bits. Measured on photographs: copies recompressed (JPEG quality 20 to 75, WebP 50)
    or resized (0.23 to 1.7 times, or to a square) differ in at most 6 bits, most in none; of crops by 2 to 3 %, 90 %
    are within 6, by 5 % 60 %; different pictures differ in 12 or more. Beyond 8 the search slows down and chance
    matches begin: at 10^6 kept samples a random hash has a match with chance 5e-6 at 6, 3e-4 at 8, 1e-2 at 10."""

    def signature(self, sample: Sample, work: Work) -> dict[str, bytes]:
        if len(sample.media) != 1 or sample.media[0].kind != "image":
            return {}
        hashed = phash(work.preview(sample.media[0], PREVIEW))
        return {} if hashed is None else {"phash": hashed.to_bytes(8, "big")}

    def state(self) -> OrderedState:
        return _Kept(self.radius)


class _Kept:
    def __init__(self, radius: int) -> None:
        self._keys = Keys()
        self._index = HammingIndex(radius=radius)

    def expect(self, signatures: Sequence[Mapping[str, bytes]]) -> None:
        self._index.expect(int.from_bytes(each["phash"], "big") for each in signatures if "phash" in each)

    def check(self, key: str, signature: Mapping[str, bytes]) -> Drop | None:
        if "phash" not in signature:
            return None
        near = self._index.nearest(int.from_bytes(signature["phash"], "big"))
        if near is None:
            return None
        distance, position = near
        return Drop(reason="near_dup", detail=f"distance {distance}", state="duplicate", of=self._keys[position])

    def keep(self, key: str, signature: Mapping[str, bytes]) -> None:
        if "phash" in signature:
            self._index.add(int.from_bytes(signature["phash"], "big"), self._keys.append(key))


def phash(pixels: NDArray[np.uint8]) -> int | None:
    """The 64-bit perceptual hash of RGB u8[H, W, 3], or None for a flat picture.

    Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), with the 8x8 lowest
    frequencies (the constant one among them) against their median, as most implementations have it, and with area
    averages in place of a resampling filter. Bits are in raster order, vertical frequency first, the first the
    highest. All sums are of whole numbers below 2**53, so the hash is the same on every machine.
    """
    height, width = pixels.shape[:2]
    luma = pixels.astype(np.float64) @ np.array([299.0, 587.0, 114.0])  # BT.601, in thousandths of a grey level
    sums = _boxes(height) @ luma @ _boxes(width).T
    cells = (sums.astype(np.int64) * GREY // (1000 * height * width)).astype(np.float64)
    cosines = _cosines()
    low = cosines @ cells @ cosines.T
    energy = low * np.outer(_norms(), _norms())
    energy[0, 0] = 0.0
    if np.sqrt((energy**2).sum()) < FLAT * GREY * GRID:
        return None
    bits = low > np.median(low)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@lru_cache(maxsize=128)
def _boxes(length: int) -> NDArray[np.float64]:
    """Weights f64[GRID, length] of the pixels in each cell: their common length, in units of 1/GRID pixel."""
    pixel, cell = np.arange(length), np.arange(GRID)[:, None]
    start = np.maximum(pixel * GRID, cell * length)
    end = np.minimum((pixel + 1) * GRID, (cell + 1) * length)
    weights: NDArray[np.float64] = np.maximum(end - start, 0).astype(np.float64)
    return weights


@cache
def _cosines() -> NDArray[np.float64]:
    """DCT-II basis f64[LOW, GRID], without its norm, in whole units of 1/COSINE."""
    frequency, cell = np.arange(LOW)[:, None], np.arange(GRID)
    basis: NDArray[np.float64] = np.rint(np.cos(np.pi * (2 * cell + 1) * frequency / (2 * GRID)) * COSINE)
    return basis


def _norms() -> NDArray[np.float64]:
    """What makes the basis orthonormal."""
    norms: NDArray[np.float64] = np.sqrt(np.array([1.0] + [2.0] * (LOW - 1)) / GRID) / COSINE
    return norms
