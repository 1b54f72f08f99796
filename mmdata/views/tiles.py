"""Views that cut a picture into tiles: InternVL, Idefics3 and SmolVLM, Gemma 3, and plain squares.

Each has a function from height and width to integers and a view around it. A plan's `grid` counts the tiles beside
the whole picture, (1, 0, 0) where there is only the whole; `shape[0]` counts all pictures that the tower sees.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from mmdata.errors import SpecError
from mmdata.types import Crop, Filter, Fork, Media, MediaPlan, Normalise, Pad, PixelOp, Resize, Tile
from mmdata.views._picture import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backend,
    Dtype,
    apply,
    check_memory,
    size_of,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiled(ABC):
    """What the tiling views share: tiles of `size` x `size` pixels, each of (size / patch / pool)^2 tokens.

    `patch` is the side of a vision patch in pixels; `pool` patches in each direction become one token.
    """

    takes_out: ClassVar[bool] = True

    name: ClassVar[str]
    size: int
    patch: int
    pool: int
    filter: Filter
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    backend: Backend = "torchvision"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        if min(self.patch, self.pool) < 1 or self.size < self.patch * self.pool:
            raise SpecError(f"view {self.name}: size {self.size} holds no patch of {self.patch} x {self.pool}")

    @property
    def tokens_per_tile(self) -> int:
        return (self.size // self.patch // self.pool) ** 2

    def plan(self, facts: Media | Size) -> MediaPlan:
        """What becomes of an image of `facts.height` x `facts.width` pixels: `tokens_per_tile` for each picture of
        [pictures, 3, size, size]. Raises DataError `no_facts`, and `aspect_extreme` for a strip that would fill the
        memory."""
        size = size_of(facts)
        pictures, grid, ops = self.cut(*size)
        check_memory(size, ops)
        return MediaPlan(
            kind="image",
            tokens=pictures * self.tokens_per_tile,
            shape=(pictures, 3, self.size, self.size),
            ops=(*ops, Normalise(self.mean, self.std)),
            size=size,
            grid=(1, *grid),
        )

    @abstractmethod
    def cut(self, height: int, width: int) -> tuple[int, Size, tuple[PixelOp, ...]]:
        """The number of pictures, the rows and columns of tiles, and the operations that make them."""

    @property
    def squash(self) -> Resize:
        return Resize(self.size, self.size, self.filter)

    def realize(self, pixels: np.ndarray, plan: MediaPlan, out: torch.Tensor | None = None) -> torch.Tensor:
        """Upright pixels uint8 [H, W, 3] of the planned size to float32 (or uint8) of `plan.shape`."""
        return apply(pixels, plan, self.backend, self.dtype, out)

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": self.name, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicTiles(Tiled):
    """InternVL (and GOT-OCR2): squashed to the grid of `min_tiles` to `max_tiles` tiles whose shape is nearest, tiles
    row-major, then the squashed whole (`thumbnail`) where there is more than one tile.

    >>> plan = DynamicTiles().plan((480, 640))
    >>> plan.grid, plan.shape, plan.tokens
    ((1, 3, 4), (13, 3, 448, 448), 3328)

    The statistics are ImageNet's, as InternVL's checkpoints have them; the class default of transformers is CLIP's.
    (transformers: `GotOcr2ImageProcessor` with `crop_to_patches`.)
    """

    name: ClassVar[str] = "dynamic_tiles"
    size: int = 448
    patch: int = 14
    pool: int = 2
    filter: Filter = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True

    def __post_init__(self) -> None:
        Tiled.__post_init__(self)
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise SpecError(f"view dynamic_tiles: no grid has {self.min_tiles} to {self.max_tiles} tiles")

    def cut(self, height: int, width: int) -> tuple[int, Size, tuple[PixelOp, ...]]:
        rows, columns = dynamic_tiles(height, width, size=self.size, min_tiles=self.min_tiles, max_tiles=self.max_tiles)
        tiles: tuple[PixelOp, ...] = (
            Resize(rows * self.size, columns * self.size, self.filter),
            Tile(rows, columns),
        )
        if rows * columns == 1 or not self.thumbnail:
            return rows * columns, (rows, columns), tiles
        return rows * columns + 1, (rows, columns), (Fork((tiles, (self.squash,))),)

    def smaller(self) -> DynamicTiles | None:
        """The view with one tile less, or None at the least."""
        return replace(self, max_tiles=self.max_tiles - 1) if self.max_tiles > self.min_tiles else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitImage(Tiled):
    """Idefics3 and SmolVLM: three resizes, each of the picture that the one before has left; tiles row-major, then the
    squashed whole. Sizes below are those of Idefics3; SmolVLM's are 512 and 2048 (pool 4), or 384 and 1536 (pool 3).

    >>> plan = SplitImage().plan((480, 640))
    >>> plan.grid, plan.shape, plan.tokens
    ((1, 3, 4), (13, 3, 364, 364), 2197)

    `longest_edge` is what the longest edge is resized to, up or down. With `splitting=False` there is the whole alone.
    (transformers: `Idefics3ImageProcessor`, `SmolVLMImageProcessor`.)
    """

    name: ClassVar[str] = "split_image"
    size: int = 364
    patch: int = 14
    pool: int = 2
    filter: Filter = "lanczos"
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    longest_edge: int = 1456
    splitting: bool = True

    def __post_init__(self) -> None:
        Tiled.__post_init__(self)
        if self.longest_edge < 1:
            raise SpecError(f"view split_image: longest_edge {self.longest_edge} leaves no picture")

    def cut(self, height: int, width: int) -> tuple[int, Size, tuple[PixelOp, ...]]:
        scaled, fitted, rows, columns = split_image(height, width, size=self.size, longest_edge=self.longest_edge)
        first = Resize(*scaled, self.filter)
        if not self.splitting:
            return 1, (0, 0), (first, self.squash, Tile(1, 1))
        second = Resize(*fitted, self.filter)
        if not rows:
            return 1, (0, 0), (first, second, Tile(1, 1))
        return rows * columns + 1, (rows, columns), (first, second, Fork(((Tile(rows, columns),), (self.squash,))))

    def smaller(self) -> SplitImage | None:
        """The view with a longest edge of one tile less, or None at one tile."""
        fewer = (self.longest_edge - 1) // self.size * self.size
        return replace(self, longest_edge=fewer) if fewer >= self.size else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PanAndScan(Tiled):
    """Gemma 3: the squashed whole, then, where the picture is long, squashed cuts of the original along its length.

    >>> plan = PanAndScan().plan((333, 999))
    >>> plan.grid, plan.shape, plan.tokens
    ((1, 1, 3), (4, 3, 896, 896), 1024)

    `crops=False` leaves the whole alone, which is the default of Hugging Face's processor; `min_crop`, `max_crops` and
    `min_ratio` are those of `pan_and_scan`. (transformers: `Gemma3ImageProcessor`.)
    """

    name: ClassVar[str] = "pan_and_scan"
    size: int = 896
    patch: int = 14
    pool: int = 4
    filter: Filter = "bilinear"
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    crops: bool = True
    min_crop: int = 256
    max_crops: int = 4
    min_ratio: float = 1.2

    def __post_init__(self) -> None:
        Tiled.__post_init__(self)
        if self.min_crop < 1 or self.max_crops < 1:
            raise SpecError(f"view pan_and_scan: min_crop {self.min_crop}, max_crops {self.max_crops} leave no crop")

    def cut(self, height: int, width: int) -> tuple[int, Size, tuple[PixelOp, ...]]:
        crops = (
            pan_and_scan(height, width, min_crop=self.min_crop, max_crops=self.max_crops, min_ratio=self.min_ratio)
            if self.crops
            else ()
        )
        if not crops:
            return 1, (0, 0), (self.squash, Tile(1, 1))
        grid = (1, len(crops)) if width >= height else (len(crops), 1)
        return 1 + len(crops), grid, (Fork(((self.squash,), *((crop, self.squash) for crop in crops))),)

    def smaller(self) -> PanAndScan | None:
        """The view without crops, or None if it has none."""
        return replace(self, crops=False) if self.crops else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CeilTiles(Tiled):
    """Squares of the picture as it is, never resized, filled up with black at the bottom and right; no whole picture.

    This is a tutorial's rule, often taken for LLaVA-NeXT's, which is `AnyRes`.

    >>> plan = CeilTiles().plan((896, 1344))
    >>> plan.grid, plan.tokens                                   # AnyRes: (1, 2, 2) and 2144
    ((1, 3, 4), 6912)
    """

    name: ClassVar[str] = "ceil_tiles"
    size: int = 336
    patch: int = 14
    pool: int = 1
    filter: Filter = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def cut(self, height: int, width: int) -> tuple[int, Size, tuple[PixelOp, ...]]:
        rows, columns = ceil_tiles(height, width, size=self.size)
        pad = Pad(0, 0, rows * self.size - height, columns * self.size - width)
        return rows * columns, (rows, columns), (pad, Tile(rows, columns))


def dynamic_tiles(height: int, width: int, *, size: int = 448, min_tiles: int = 1, max_tiles: int = 12) -> Size:
    """Rows and columns of the grid whose shape is nearest to the picture's; of equally near ones the last, in order of
    tiles, that the picture fills by more than half. (transformers: `got_ocr2.get_optimal_tiled_canvas`.)

    >>> dynamic_tiles(480, 640)                                  # the ratio decides, however few pixels there are
    (3, 4)
    >>> dynamic_tiles(448, 448), dynamic_tiles(672, 672)         # 672*672 is more than half of 2*448 * 2*448
    ((1, 1), (2, 2))
    """
    ratio, area = width / height, width * height
    nearest, best = math.inf, (1, 1)
    for columns, rows in _grids(min_tiles, max_tiles):
        distance = abs(ratio - columns / rows)
        if distance < nearest or (distance == nearest and area > 0.5 * size * size * columns * rows):
            nearest, best = distance, (rows, columns)
    return best


@functools.lru_cache
def _grids(min_tiles: int, max_tiles: int) -> tuple[Size, ...]:
    """(columns, rows) of min_tiles to max_tiles tiles, in order of tiles and then of columns."""
    pairs = [(columns, rows) for columns in range(1, max_tiles + 1) for rows in range(1, max_tiles // columns + 1)]
    return tuple(sorted((pair for pair in pairs if pair[0] * pair[1] >= min_tiles), key=math.prod))


class Split(NamedTuple):
    """How Idefics3 splits: (height, width) after the first and after the second resize, rows and columns of tiles."""

    scaled: Size
    fitted: Size
    rows: int
    columns: int


def split_image(height: int, width: int, *, size: int = 364, longest_edge: int = 1456, max_edge: int = 4096) -> Split:
    """The longest edge becomes `longest_edge`, at most `max_edge`; then both become multiples of `size`, which are cut
    into tiles. No rows and columns: the picture is one tile and not split. (transformers: `Idefics3ImageProcessor`
    as it cuts; its `get_number_of_image_patches` differs where `size` does not divide `longest_edge`.)

    >>> split_image(480, 640)
    Split(scaled=(1092, 1456), fitted=(1092, 1456), rows=3, columns=4)
    >>> split_image(100, 1000, longest_edge=1000)                # 100 of 1092 pixels, 109 of the longer edge's 1092
    Split(scaled=(100, 1000), fitted=(364, 1092), rows=1, columns=3)
    """
    scaled = _capped(*_to_longest(height, width, longest_edge), max_edge)
    fitted = _to_multiples(*scaled, size)
    rows, columns = fitted[0] // size, fitted[1] // size
    return Split(scaled, fitted, *((rows, columns) if rows * columns > 1 else (0, 0)))


def _to_longest(height: int, width: int, longest: int) -> Size:
    """The longest edge is `longest`, the other one truncated, then made even by adding one."""
    ratio = width / height
    if width >= height:
        other = int(longest / ratio)
        return max(other + other % 2, 1), longest
    other = int(longest * ratio)
    return longest, max(other + other % 2, 1)


def _capped(height: int, width: int, longest: int) -> Size:
    """The longest edge is at most `longest`; the other one truncated."""
    ratio = width / height
    if width >= height and width > longest:
        return max(int(longest / ratio), 1), longest
    if height > width and height > longest:
        return longest, max(int(longest * ratio), 1)
    return height, width


def _to_multiples(height: int, width: int, size: int) -> Size:
    """The longest edge up to a multiple of `size`; the other one follows in proportion, then up to a multiple."""
    ratio = width / height
    if width >= height:
        width = math.ceil(width / size) * size
        return math.ceil(int(width / ratio) / size) * size, width
    height = math.ceil(height / size) * size
    return height, math.ceil(int(height * ratio) / size) * size


def pan_and_scan(
    height: int, width: int, *, min_crop: int = 256, max_crops: int = 4, min_ratio: float = 1.2
) -> tuple[Crop, ...]:
    """The cuts of a picture at least `min_ratio` times as long as it is wide, two to `max_crops` along its length; the
    last may be shorter. None where one would be shorter or narrower than `min_crop` pixels.
    (transformers: `Gemma3ImageProcessor.pan_and_scan_batched`.)

    >>> pan_and_scan(333, 1000)
    (Crop(top=0, left=0, height=333, width=334), Crop(top=0, left=334, height=333, width=334),
     Crop(top=0, left=668, height=333, width=332))
    >>> pan_and_scan(500, 333)                                   # cuts of 250 x 333 are too small
    ()
    """
    long, short = max(height, width), min(height, width)
    if long / short < min_ratio:
        return ()
    count = min(max(2, min(long // min_crop, math.floor(long / short + 0.5))), max_crops)
    step = math.ceil(long / count)
    if min(step, short) < min_crop:
        return ()
    cuts = [(at, min(step, long - at)) for at in range(0, long, step)]
    if width >= height:
        return tuple(Crop(0, at, height, length) for at, length in cuts)
    return tuple(Crop(at, 0, length, width) for at, length in cuts)


def ceil_tiles(height: int, width: int, *, size: int = 336) -> Size:
    """Rows and columns of squares of `size` pixels that cover the picture as it is.

    >>> ceil_tiles(672, 1008)
    (2, 3)
    """
    return math.ceil(height / size), math.ceil(width / size)
