"""LFM2-VL: a picture of moderate size in whole merged patches; a large one as tiles and a thumbnail of that size."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mmdata.errors import DataError, SpecError
from mmdata.types import Filter, Fork, Media, MediaPlan, Normalise, Patchify, PixelOp, Resize, Tile
from mmdata.views._picture import HALF, Backend, Colour, check_memory, size_of
from mmdata.views.patches import check_patches
from mmdata.views.tiles import dynamic_tiles

if TYPE_CHECKING:
    import numpy as np
    import torch


def lfm2_size(
    height: int, width: int, factor: int = 32, min_tokens: int = 64, max_tokens: int = 256
) -> tuple[int, int]:
    """Height and width, multiples of `factor`, of `min_tokens` to `max_tokens` squares of that side; a strip may have
    more. (transformers: `Lfm2VlImageProcessor.smart_resize`.)

    >>> lfm2_size(480, 640), lfm2_size(100, 100), lfm2_size(2000, 3000)
    ((416, 576), (256, 256), (416, 608))
    """
    area = factor**2
    rows, columns = max(1, round(height / factor)), max(1, round(width / factor))
    if rows * columns > max_tokens:
        shrink = math.sqrt(height * width / (max_tokens * area))
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif rows * columns < min_tokens:
        grow = math.sqrt(min_tokens * area / (height * width))
        rows, columns = math.ceil(height * grow / factor), math.ceil(width * grow / factor)
    return rows * factor, columns * factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Lfm2Tiles:
    """An image becomes [pictures, budget, patch*patch*3]: itself resized, or where it has more than `tolerance` times
    the pixels of `max_tokens`, `min_tiles` to `max_tiles` tiles of `size`, row-major, and itself resized last.

    A strip of more squares than `max_tokens` is refused: there is no row for them.
    Every picture has `budget` rows of patches (channels last), zeros after its own; `pool` x `pool` patches are one
    token. `grid` of a plan counts tiles, (1, 1, 1) for a picture in one piece; its `size` is that of the original.
    (transformers: `Lfm2VlImageProcessor`.)
    """

    size: int = 512
    patch: int = 16
    pool: int = 2
    min_tiles: int = 2
    max_tiles: int = 10
    thumbnail: bool = True
    splitting: bool = True
    min_tokens: int = 64
    max_tokens: int = 256
    tolerance: float = 2.0
    filter: Filter = "bilinear"
    mean: Colour = HALF
    std: Colour = HALF
    backend: Backend = "torchvision"

    def __post_init__(self) -> None:
        check_patches("lfm2 tiles", self.patch, self.pool, 1, self.min_tokens, self.max_tokens)
        if self.size < self.patch * self.pool or not 1 <= self.min_tiles <= self.max_tiles:
            raise SpecError(f"view lfm2 tiles: size {self.size}, {self.min_tiles} to {self.max_tiles} tiles")

    @property
    def budget(self) -> int:
        """Rows of patches of each picture."""
        tile = (self.size // self.patch) ** 2 if self.splitting else 0
        return max(self.max_tokens * self.pool**2, tile)

    @property
    def tokens_per_tile(self) -> int:
        return math.ceil(self.size // self.patch / self.pool) ** 2

    def whole(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the picture in one piece."""
        return lfm2_size(height, width, self.patch * self.pool, self.min_tokens, self.max_tokens)

    def plan(self, facts: Media | tuple[int, int]) -> MediaPlan:
        """What becomes of an image of `facts.height` x `facts.width` pixels.

        >>> plan = Lfm2Tiles().plan((1080, 1920))
        >>> plan.grid, plan.shape, plan.tokens      # 8 tiles of 256 tokens and 12 x 21 of the thumbnail
        ((1, 2, 4), (9, 1024, 768), 2300)
        """
        height, width = size_of(facts)
        whole = self.whole(height, width)
        tokens = whole[0] * whole[1] // (self.patch * self.pool) ** 2
        if tokens * self.pool**2 > self.budget:
            raise DataError("aspect_extreme", f"{height} x {width} has {tokens} tokens, {self.max_tokens} are allowed")
        write: tuple[PixelOp, ...] = (Normalise(self.mean, self.std), Patchify(self.patch, channels_last=True))
        branches: list[tuple[PixelOp, ...]] = [(Resize(*whole, self.filter), *write)]
        rows = columns = 1
        if self.splitting and self.max_tiles > 1 and self._large(height, width):
            rows, columns = dynamic_tiles(
                height, width, size=self.size, min_tiles=self.min_tiles, max_tiles=self.max_tiles
            )
            resize = Resize(rows * self.size, columns * self.size, self.filter)
            tiles = (resize, Tile(rows, columns), *write)
            if self.thumbnail and rows * columns > 1:
                branches, tokens = [tiles, *branches], tokens + rows * columns * self.tokens_per_tile
            else:
                branches, tokens = [tiles], rows * columns * self.tokens_per_tile
        check_memory((height, width), [op for branch in branches for op in branch[:1]])
        pictures = len(branches) - 1 + rows * columns
        return MediaPlan(
            kind="image",
            tokens=tokens,
            shape=(pictures, self.budget, 3 * self.patch**2),
            ops=(Fork(tuple(branches)),),
            size=(height, width),
            grid=(1, rows, columns),
        )

    def _large(self, height: int, width: int) -> bool:
        factor = self.patch * self.pool
        tall, wide = (max(self.patch, round(side / factor) * factor) for side in (height, width))
        return tall * wide > self.max_tokens * factor**2 * self.tolerance

    def realize(self, pixels: np.ndarray, plan: MediaPlan) -> torch.Tensor:
        """Upright pixels uint8 [H, W, 3] of the planned size to float32 of `plan.shape`."""
        import torch

        from mmdata.views.patches import patchify
        from mmdata.views.pixels import apply

        *before, fork = plan.ops
        assert isinstance(fork, Fork), plan
        out = torch.zeros(plan.shape)
        at = 0
        for branch in fork.branches:
            tile = next((op for op in branch if isinstance(op, Tile)), Tile(1, 1))
            pictures = tile.rows * tile.columns
            cut = apply(pixels, (*before, *branch[:-1]), backend=self.backend)
            rows = patchify(cut, self.patch, channels_last=True).view(pictures, -1, plan.shape[-1])
            out[at : at + pictures, : rows.shape[1]] = rows
            at += pictures
        return out

    def patches(self, plan: MediaPlan) -> list[tuple[int, int]]:
        """Rows and columns of patches of each picture, in order."""
        assert plan.grid is not None, plan
        assert plan.size is not None, plan
        height, width = self.whole(*plan.size)
        side = self.size // self.patch
        count = plan.grid[1] * plan.grid[2]
        whole = [(height // self.patch, width // self.patch)]
        return whole if plan.shape[0] == 1 and count == 1 else [(side, side)] * count + whole[: plan.shape[0] - count]

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "lfm2_tiles", **asdict(self)}
