"""Pixtral: an image of its own shape, no edge longer than a limit, as a whole number of patches."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from mmdata.errors import DataError, SpecError
from mmdata.types import Filter, Media, MediaPlan, Normalise, Resize
from mmdata.views._picture import CLIP_MEAN, CLIP_STD, Backend, Colour, Dtype, apply, check_memory, size_of
from mmdata.views.patches import check_patches

if TYPE_CHECKING:
    import numpy as np
    import torch


def pixtral_size(height: int, width: int, patch: int = 16, longest_edge: int = 1024) -> tuple[int, int]:
    """Height and width, multiples of `patch`: shrunk (and floored) so that neither edge passes `longest_edge`, never
    grown, then ceiled to whole patches (transformers, `models/pixtral/image_processing_pixtral.py`).

    Raises DataError("aspect_extreme") where shrinking leaves an edge of no pixel.

    >>> pixtral_size(480, 640), pixtral_size(3024, 4032), pixtral_size(3, 5)
    ((480, 640), (768, 1024), (16, 16))
    """
    if patch < 1 or longest_edge < 1:
        raise SpecError(f"pixtral_size: patch {patch} and longest_edge {longest_edge} leave no patch")
    if height < 1 or width < 1:
        raise DataError("no_pixels", f"{height} x {width} pixels")
    ratio = max(height / longest_edge, width / longest_edge)
    if ratio > 1:
        small_h, small_w = math.floor(height / ratio), math.floor(width / ratio)
        if not small_h or not small_w:
            raise DataError("aspect_extreme", f"{height} x {width} would be resized to {small_h} x {small_w}")
        height, width = small_h, small_w
    return -(-height // patch) * patch, -(-width // patch) * patch


@dataclass(frozen=True, slots=True, kw_only=True)
class LongestEdge:
    """An image becomes float32 [3, H, W], of gh x gw patches, and gh*gw / merge^2 tokens in rows of gw / merge; the
    prompt breaks after each row.

    The images of a batch are filled up with zeros, at the bottom and right, to the largest of them; `image_sizes` says
    how much of each is picture. With `merge` (Mistral 3: 2, patch 14) both sides are whole numbers of merged patches.
    (transformers: `PixtralImageProcessor`.)
    """

    takes_out: ClassVar[bool] = True

    size: int = 1024
    patch: int = 16
    merge: int = 1
    filter: Filter = "bicubic"
    mean: Colour = CLIP_MEAN
    std: Colour = CLIP_STD
    backend: Backend = "torchvision"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check_patches("longest_edge", self.patch, self.merge, 1, self.size)

    def plan(self, facts: Media | tuple[int, int]) -> MediaPlan:
        """What becomes of an image of `facts.height` x `facts.width` pixels. Raises DataError `no_facts`, and
        `aspect_extreme` for what the processor refuses.

        >>> plan = LongestEdge().plan(Media(kind="image", height=1080, width=1920))
        >>> plan.ops[0], plan.grid, plan.tokens, plan.shape
        (Resize(height=576, width=1024, filter='bicubic'), (1, 36, 64), 2304, (3, 576, 1024))
        """
        height, width = size_of(facts)
        new_h, new_w = pixtral_size(height, width, self.patch * self.merge, self.size)
        resize = Resize(new_h, new_w, self.filter)
        check_memory((height, width), (resize,))
        rows, columns = new_h // self.patch, new_w // self.patch
        return MediaPlan(
            kind="image",
            tokens=rows * columns // self.merge**2,
            shape=(3, new_h, new_w),
            ops=(resize, Normalise(self.mean, self.std)),
            size=(height, width),
            grid=(1, rows, columns),
        )

    def realize(self, pixels: np.ndarray, plan: MediaPlan, out: torch.Tensor | None = None) -> torch.Tensor:
        """Upright pixels uint8 [H, W, 3] of the planned size to a picture of `plan.shape`."""
        return apply(pixels, plan, self.backend, self.dtype, out)

    def smaller(self) -> LongestEdge | None:
        """The view with half the pixels at most, or None at one (merged) patch."""
        edge = self.size * 5 // 7
        return replace(self, size=edge) if edge >= self.patch * self.merge else None

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "longest_edge", **asdict(self)}
