"""SigLIP 2 NaFlex: the largest picture of about the same shape whose patches fit a budget, with zero rows up to it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mmdata.errors import DataError, SpecError
from mmdata.types import Filter, Media, MediaPlan, Normalise, Patchify, Resize
from mmdata.views._picture import HALF, Backend, Colour, Dtype, apply, check_memory, size_of
from mmdata.views.patches import check_patches

if TYPE_CHECKING:
    import numpy as np
    import torch

EPSILON = 1e-5
"""The search for the scale ends when it is known this well."""
LARGEST_SCALE = 100.0


def naflex_size(
    height: int,
    width: int,
    patch: int = 16,
    max_num_patches: int = 256,
    *,
    variant: Literal["transformers", "big_vision"] = "transformers",
) -> tuple[int, int]:
    """Height and width, multiples of `patch`, whose patches number `max_num_patches` at most.

    Binary search of the scale in [1e-6, 100]; sides are ceiled to whole patches (transformers,
    `models/siglip2/image_processing_siglip2.py`). No image grows more than a hundredfold, so that a tiny one does not
    fill the budget. `variant="big_vision"` searches in float32, as the original does
    (`big_vision/pp/proj/image_text/ops_naflex.py`); one size in thousands differs.
    Raises DataError("aspect_extreme") for a picture so large that no scale fits.

    >>> naflex_size(480, 640), naflex_size(1, 1), naflex_size(1, 4000)
    ((224, 288), (112, 112), (16, 4096))
    """
    if patch < 1 or max_num_patches < 1:
        raise SpecError(f"naflex_size: patch {patch} and max_num_patches {max_num_patches} leave no patch")
    if height < 1 or width < 1:
        raise DataError("no_pixels", f"{height} x {width} pixels")
    if variant == "big_vision":
        rows, columns = _search_single(height, width, patch, max_num_patches)
    elif variant == "transformers":
        rows, columns = _search_double(height, width, patch, max_num_patches)
    else:
        raise SpecError(f"naflex_size: variant {variant!r} is neither 'transformers' nor 'big_vision'")
    if rows * columns > max_num_patches:
        raise DataError("aspect_extreme", f"{height} x {width} needs {rows} x {columns} patches at the least scale")
    return rows * patch, columns * patch


def _search_double(height: int, width: int, patch: int, budget: int) -> tuple[int, int]:
    low, high = EPSILON / 10, LARGEST_SCALE
    while high - low >= EPSILON:
        middle = (low + high) / 2
        rows = max(1, math.ceil(height * middle / patch))
        if rows * max(1, math.ceil(width * middle / patch)) <= budget:
            low = middle
        else:
            high = middle
    return max(1, math.ceil(height * low / patch)), max(1, math.ceil(width * low / patch))


def _search_single(height: int, width: int, patch: int, budget: int) -> tuple[int, int]:
    import numpy as np

    side = np.array([height, width], np.float32)
    size = np.float32(patch)

    def patches(scale: np.float32) -> np.ndarray:
        counts: np.ndarray = np.maximum(np.ceil(side * scale / size), np.float32(1))
        return counts

    low, high = np.float32(EPSILON / 10), np.float32(LARGEST_SCALE)
    while high - low >= np.float32(EPSILON):
        middle = (low + high) / np.float32(2)
        if middle in (low, high):  # float32 resolves the scale less finely than the search asks for
            break
        if patches(middle).prod() <= budget:
            low = middle
        else:
            high = middle
    rows, columns = patches(low)
    return int(rows), int(columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class NaFlex:
    """An image becomes gh x gw <= `budget` patches, float32 [budget, patch*patch*3], channels last within a row.

    Rows beyond gh*gw are zeros, and the tower answers a (masked) feature for them too, so that an image has `budget`
    tokens. With `pad=False` there are gh*gw rows and tokens, for towers that take packed patches. `dtype="uint8"`
    leaves normalising to the device, which must then keep the rows of zeros as they are.
    (transformers: `Siglip2ImageProcessor`.)
    """

    takes_out: ClassVar[bool] = True

    patch: int = 16
    budget: int = 256
    pad: bool = True
    variant: Literal["transformers", "big_vision"] = "transformers"
    filter: Filter = "bilinear"
    mean: Colour = HALF
    std: Colour = HALF
    backend: Backend = "torchvision"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check_patches("naflex", self.patch, 1, 1, self.budget)

    def plan(self, facts: Media | tuple[int, int]) -> MediaPlan:
        """What becomes of an image of `facts.height` x `facts.width` pixels. Raises DataError `no_facts`.

        >>> plan = NaFlex().plan(Media(kind="image", height=480, width=640))
        >>> plan.ops[0], plan.grid, plan.tokens, plan.shape
        (Resize(height=224, width=288, filter='bilinear'), (1, 14, 18), 256, (256, 768))
        """
        height, width = size_of(facts)
        new_h, new_w = naflex_size(height, width, self.patch, self.budget, variant=self.variant)
        resize = Resize(new_h, new_w, self.filter)
        check_memory((height, width), (resize,))
        rows, columns = new_h // self.patch, new_w // self.patch
        tokens = self.budget if self.pad else rows * columns
        return MediaPlan(
            kind="image",
            tokens=tokens,
            shape=(tokens, 3 * self.patch**2),
            ops=(
                resize,
                Normalise(self.mean, self.std),
                Patchify(self.patch, channels_last=True, pad_to=self.budget if self.pad else None),
            ),
            size=(height, width),
            grid=(1, rows, columns),
        )

    def realize(self, pixels: np.ndarray, plan: MediaPlan, out: torch.Tensor | None = None) -> torch.Tensor:
        """Upright pixels uint8 [H, W, 3] of the planned size to patches of `plan.shape`."""
        return apply(pixels, plan, self.backend, self.dtype, out)

    def smaller(self) -> NaFlex | None:
        """The view with half the budget, or None where rows are filled up to it, or one patch is left."""
        return None if self.pad or self.budget < 2 else replace(self, budget=self.budget // 2)

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "naflex", **asdict(self)}
