"""AnyRes (LLaVA-NeXT, LLaVA-OneVision): the whole picture first, then tiles of the grid that fits it best.

The model cuts the padding out of the tiles' features again, puts a newline after each row of what is left, and may
shrink it (`anyres_max`); the number of its feature vectors follows from the size of the picture alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mmdata.errors import SpecError
from mmdata.types import Filter, Fork, Media, MediaPlan, Normalise, Pad, PixelOp, Resize, Tile
from mmdata.views._picture import (
    CLIP_MEAN,
    CLIP_STD,
    Backend,
    Dtype,
    apply,
    check_memory,
    size_of,
    square,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

Size = tuple[int, int]

LLAVA_NEXT: tuple[Size, ...] = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""Pinpoints (height, width) of LLaVA-NeXT, in the order that breaks ties."""
ONEVISION: tuple[Size, ...] = tuple((384 * i, 384 * j) for i in range(1, 7) for j in range(1, 7))
"""Pinpoints (height, width) of LLaVA-OneVision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyRes:
    """An image becomes [1 + rows * columns, 3, size, size]: itself squashed, then its tiles, row-major.

    `size` is the side of a tile and `patch` that of a vision patch, in pixels; `pinpoints` the grids to choose from,
    as (height, width) in pixels, where the first of equals wins: upstream LLaVA writes (width, height), Hugging Face
    (height, width), so in a tie they choose transposed grids, and we follow Hugging Face. `anyres_max` (9 in
    LLaVA-OneVision) is the number of tiles to whose features the model shrinks larger ones. With `tiling=False` the
    image is padded to a square of the mean colour and is its only tile: [1, 3, size, size], which is how
    LLaVA-OneVision takes several images. `grid` of a plan counts the tiles beside the whole picture.
    (transformers: `LlavaNextImageProcessor`, `LlavaOnevisionImageProcessor` and the models' `pack_image_features`.)
    """

    takes_out: ClassVar[bool] = True

    size: int = 336
    patch: int = 14
    pinpoints: tuple[Size, ...] = LLAVA_NEXT
    anyres_max: int | None = None
    tiling: bool = True
    filter: Filter = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    backend: Backend = "torchvision"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pinpoints", tuple((height, width) for height, width in self.pinpoints))
        if not 1 <= self.patch <= self.size:
            raise SpecError(f"view anyres: patch {self.patch} does not fit into size {self.size}")
        wrong = [pair for pair in self.pinpoints if min(pair) < self.size or any(side % self.size for side in pair)]
        if wrong or not self.pinpoints:
            raise SpecError(f"view anyres: pinpoints {wrong or 'are missing; they'} must be multiples of {self.size}")
        if self.anyres_max is not None and self.anyres_max < 1:
            raise SpecError(f"view anyres: anyres_max {self.anyres_max} leaves no tile")

    @property
    def side(self) -> int:
        """Patches along the edge of a tile."""
        return self.size // self.patch

    def plan(self, facts: Media | Size) -> MediaPlan:
        """What becomes of an image of `facts.height` x `facts.width` pixels.

        >>> plan = AnyRes().plan((480, 640))
        >>> plan.grid, plan.shape, plan.tokens      # 24*24 of the whole, 36 rows of 48 and a newline each
        ((1, 2, 2), (5, 3, 336, 336), 2340)
        >>> whole, tiles = plan.ops[0].branches
        >>> tiles
        (Resize(height=504, width=672, filter='bicubic'), Pad(top=84, left=0, bottom=84, right=0, value=(0, 0, 0)),
        Tile(rows=2, columns=2))

        Raises DataError `no_facts`, and `aspect_extreme` for a strip that would fill the memory.
        """
        size = size_of(facts)
        squash = Resize(self.size, self.size, self.filter)
        ops: tuple[PixelOp, ...]
        if self.tiling:
            best = select_best_resolution(size, self.pinpoints)
            rows, columns = best[0] // self.size, best[1] // self.size
            ops = (Fork(((squash,), (*_fitted(size, best, self.filter), Tile(rows, columns)))),)
            tokens = num_tokens(size, (rows, columns), side=self.side, anyres_max=self.anyres_max)
        else:
            rows = columns = 0
            ops = (*square(*size, self.mean), squash, Tile(1, 1))
            tokens = self.side**2 + 1
        check_memory(size, ops)
        return MediaPlan(
            kind="image",
            tokens=tokens,
            shape=(1 + rows * columns, 3, self.size, self.size),
            ops=(*ops, Normalise(self.mean, self.std)),
            size=size,
            grid=(1, rows, columns),
        )

    def realize(self, pixels: np.ndarray, plan: MediaPlan, out: torch.Tensor | None = None) -> torch.Tensor:
        """Upright pixels uint8 [H, W, 3] of the planned size to float32 (or uint8) of `plan.shape`."""
        return apply(pixels, plan, self.backend, self.dtype, out)

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "anyres", **asdict(self)}


def plan(facts: Media | Size, **params: Any) -> MediaPlan:
    """The plan of `AnyRes(**params)` for a picture, of which the facts or (height, width) are given.

    >>> plan((896, 1344), size=384, pinpoints=ONEVISION, anyres_max=9).tokens
    8686
    """
    return AnyRes(**params).plan(facts)


def realize(
    pixels: np.ndarray, plan: MediaPlan, *, backend: Backend = "torchvision", dtype: Dtype = "float32"
) -> torch.Tensor:
    """Upright pixels uint8 [H, W, 3] of the planned size to the tensor of `plan.shape`."""
    return apply(pixels, plan, backend, dtype)


def select_best_resolution(size: Size, pinpoints: Sequence[Size]) -> Size:
    """The pinpoint in which most of the picture's pixels survive, and of those the one that wastes least; the first of
    equals. All sizes are (height, width). (transformers: `image_processing_utils.select_best_resolution`.)

    >>> select_best_resolution((480, 640), LLAVA_NEXT)
    (672, 672)
    >>> select_best_resolution((100, 100), LLAVA_NEXT)          # a tie of all; upstream LLaVA takes (672, 336)
    (336, 672)
    """
    height, width = size
    pixels = height * width
    best, best_effective, best_wasted = None, 0, 0
    for target_h, target_w in pinpoints:
        scale = min(target_w / width, target_h / height)
        effective = min(int(width * scale) * int(height * scale), pixels)
        wasted = target_h * target_w - effective
        if best is None or effective > best_effective or (effective == best_effective and wasted < best_wasted):
            best, best_effective, best_wasted = (target_h, target_w), effective, wasted
    if best is None:
        raise SpecError("view anyres: there are no pinpoints to choose from")
    return best


def fit_inside(size: Size, target: Size) -> Size:
    """Height and width of the picture resized to lie inside `target`, keeping its aspect ratio, rounded up.

    >>> fit_inside((480, 640), (672, 672))
    (504, 672)
    """
    scale_h, scale_w = target[0] / size[0], target[1] / size[1]
    if scale_w < scale_h:
        return min(math.ceil(size[0] * scale_w), target[0]), target[1]
    return target[0], min(math.ceil(size[1] * scale_h), target[1])


def unpadded(size: Size, features: Size) -> Size:
    """Rows and columns of the tiles' features that are left when the model has cut the padding out.

    >>> unpadded((480, 640), (48, 48))
    (36, 48)
    >>> unpadded((1, 4000), (24, 48))                            # a strip that is thinner than a row
    (0, 48)
    """
    height, width = size
    rows, columns = features
    # Rounding to seven digits is Hugging Face's: 13 of 1.1 million sizes count differently upstream.
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    return rows, columns


def num_tokens(size: Size, grid: Size, *, side: int = 24, anyres_max: int | None = None) -> int:
    """Feature vectors of a picture of `size` in `grid` (rows, columns) tiles of `side` x `side` features: those of the
    whole, then those of the tiles without padding, with a newline after each row.

    >>> num_tokens((480, 640), (2, 2))                           # 24*24 + 36*(48+1)
    2340
    """
    rows, columns = unpadded(size, (grid[0] * side, grid[1] * side))
    if anyres_max is not None:
        ratio = math.sqrt(rows * columns / (anyres_max * side**2))
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
    return side**2 + rows * (columns + 1)


def num_video_tokens(frames: int, *, side: int = 27) -> int:
    """Feature vectors of a LLaVA-OneVision video: each frame's `side` x `side` pooled by two, one newline at the end.

    >>> num_video_tokens(8)                                      # 8 * 14*14 + 1
    1569
    """
    return frames * math.ceil(side / 2) ** 2 + 1


def _fitted(size: Size, target: Size, filter: Filter) -> tuple[PixelOp, ...]:
    """Resized to lie inside `target`, in the middle, with black around; the odd pixel is at the bottom and right."""
    height, width = fit_inside(size, target)
    left, top = (target[1] - width) // 2, (target[0] - height) // 2
    resize = Resize(height, width, filter)
    if (height, width) == target:
        return (resize,)
    return resize, Pad(top, left, target[0] - height - top, target[1] - width - left)
