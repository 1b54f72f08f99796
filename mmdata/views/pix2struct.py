"""Pix2Struct: an image standardised by itself, then as many patches of its own shape as a budget holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mmdata.errors import DataError, SpecError
from mmdata.types import Media, MediaPlan, Patchify, Resize, Standardise
from mmdata.views._picture import Backend, apply, check_memory, size_of
from mmdata.views.patches import check_patches

if TYPE_CHECKING:
    import numpy as np
    import torch


def pix2struct_grid(height: int, width: int, patch: int = 16, max_patches: int = 2048) -> tuple[int, int]:
    """Rows and columns of patches, `max_patches` at most together, of about the image's shape, however small it is
    (transformers, `models/pix2struct/image_processing_pix2struct.py`).

    >>> pix2struct_grid(480, 640), pix2struct_grid(1, 1), pix2struct_grid(1, 4000)
    ((39, 52), (45, 45), (1, 2048))
    """
    if patch < 1 or max_patches < 1:
        raise SpecError(f"pix2struct_grid: patch {patch} and max_patches {max_patches} leave no patch")
    if height < 1 or width < 1:
        raise DataError("no_pixels", f"{height} x {width} pixels")
    scale = (max_patches * (patch / height) * (patch / width)) ** 0.5
    rows = max(min(int(scale * height / patch), max_patches), 1)
    columns = max(min(int(scale * width / patch), max_patches), 1)
    return rows, columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Pix2Struct:
    """An image becomes gh x gw <= `budget` rows of (row, column, pixels), float32 [budget, 2 + patch*patch*3]; rows and
    columns count from 1, pixels have their channels last, and rows beyond gh*gw are zeros.

    The backends differ in the deviation: transformers' torchvision backend divides the variance by N - 1, its PIL
    backend and the original by N; both resize in float32. An image has `budget` tokens, of which gh*gw are not masked;
    with `pad=False` there are gh*gw rows and tokens.
    (transformers: `Pix2StructImageProcessor`.)
    """

    patch: int = 16
    budget: int = 2048
    pad: bool = True
    backend: Backend = "torchvision"

    def __post_init__(self) -> None:
        check_patches("pix2struct", self.patch, 1, 1, self.budget)

    def plan(self, facts: Media | tuple[int, int]) -> MediaPlan:
        """What becomes of an image of `facts.height` x `facts.width` pixels. Raises DataError `no_facts`, and
        `aspect_extreme` for a strip that would fill the memory.

        >>> plan = Pix2Struct().plan(Media(kind="image", height=480, width=640))
        >>> plan.grid, plan.tokens, plan.shape
        ((1, 39, 52), 2048, (2048, 770))
        """
        height, width = size_of(facts)
        rows, columns = pix2struct_grid(height, width, self.patch, self.budget)
        resize = Resize(rows * self.patch, columns * self.patch, "bilinear")
        check_memory((height, width), (resize,))
        tokens = self.budget if self.pad else rows * columns
        return MediaPlan(
            kind="image",
            tokens=tokens,
            shape=(tokens, 2 + 3 * self.patch**2),
            ops=(
                Standardise(unbiased=self.backend == "torchvision"),
                resize,
                Patchify(self.patch, channels_last=True, grid_ids=True, pad_to=self.budget if self.pad else None),
            ),
            size=(height, width),
            grid=(1, rows, columns),
        )

    def realize(self, pixels: np.ndarray, plan: MediaPlan) -> torch.Tensor:
        """Upright pixels uint8 [H, W, 3] of the planned size to rows of `plan.shape`."""
        return apply(pixels, plan, self.backend, "float32")

    def smaller(self) -> Pix2Struct | None:
        """The view with half the budget, or None where rows are filled up to it, or one patch is left."""
        return None if self.pad or self.budget < 2 else replace(self, budget=self.budget // 2)

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "pix2struct", **asdict(self)}
