"""The fixed view: every picture becomes one square, by cropping, squashing or padding, as CLIP, SigLIP and LLaVA do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mmdata.errors import DataError, SpecError
from mmdata.types import Crop, Filter, Media, MediaPlan, Normalise, Pad, PixelOp, Resize
from mmdata.views._picture import (
    CLIP_MEAN,
    CLIP_STD,
    MAX_RESIZED,
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

__all__ = ["CLIP_MEAN", "CLIP_STD", "MAX_RESIZED", "Fixed", "center_crop", "shortest_edge"]

MAX_STRIP = 1 << 30
"""Pixels of a strip's resized whole, of which parts are made: seconds of work for a square that shows next to none."""
Mode = Literal["shortest_crop", "squash", "pad_square"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Every image becomes `crop` x `crop` pixels and (crop / patch / pool)^2 tokens.

    `mode` says how the picture becomes `size` x `size`: its shortest edge is resized to `size` and the centre cropped
    (CLIP, LLaVA-1.5), it is squashed (SigLIP, PaliGemma, video frames), or it is put on a square of the mean colour
    first (LLaVA-1.5 with `image_aspect_ratio: pad`). `crop` (default: `size`) is the side of the centre crop, `patch`
    the side of a vision patch, all in pixels; `pool` patches in each direction become one token. `mean` and `std` are
    for values in 0..1. (transformers: `CLIPImageProcessor`, `SiglipImageProcessor`, `LlavaImageProcessor`.)
    """

    takes_out: ClassVar[bool] = True

    size: int = 336
    crop: int | None = None
    patch: int = 14
    pool: int = 1
    mode: Mode = "shortest_crop"
    filter: Filter = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    backend: Backend = "torchvision"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        if min(self.size, self.patch, self.pool) < 1 or self.side < self.patch * self.pool:
            raise SpecError(f"view fixed: size {self.size}, crop {self.side} and patch {self.patch} leave no patch")

    @property
    def side(self) -> int:
        return self.crop or self.size

    def plan(self, facts: Media | tuple[int, int]) -> MediaPlan:
        """What becomes of an image of `facts.height` x `facts.width` pixels.

        >>> plan = Fixed(size=56).plan(Media(kind="image", height=100, width=301))
        >>> plan.tokens, plan.shape, plan.ops[:2]     # 56 * 301 / 100 = 168.56, truncated
        (16, (3, 56, 56), (Resize(height=56, width=168, filter='bicubic'), Crop(top=0, left=56, height=56, width=56)))

        Raises DataError `no_facts`, and `aspect_extreme` for a strip that would fill the memory.
        """
        height, width = size_of(facts)
        before: tuple[PixelOp, ...] = ()
        resized = self.size, self.size
        if self.mode == "shortest_crop":
            resized = shortest_edge(height, width, self.size)
        elif self.mode == "pad_square":
            before = square(height, width, self.mean)
        ops = (*before, Resize(*resized, self.filter), *center_crop(*resized, self.side, self.backend))
        if not _in_strips(height, width, *resized):
            check_memory((height, width), ops)
        elif resized[0] * resized[1] > MAX_STRIP:
            raise DataError("aspect_extreme", f"{height} x {width} would be resized to {resized[0]} x {resized[1]}")
        return MediaPlan(
            kind="image",
            tokens=(self.side // self.patch // self.pool) ** 2,
            shape=(3, self.side, self.side),
            ops=(*ops, Normalise(self.mean, self.std)),
            size=(height, width),
        )

    def realize(self, pixels: np.ndarray, plan: MediaPlan, out: torch.Tensor | None = None) -> torch.Tensor:
        """Upright pixels uint8 [H, W, 3] of the planned size to float32 (or uint8) [3, crop, crop]."""
        first, (height, width, _) = plan.ops[0], pixels.shape
        if isinstance(first, Resize) and _in_strips(height, width, first.height, first.width):
            crop = next(op for op in plan.ops if isinstance(op, Crop))  # A strip is cropped whatever the side.
            pixels = _strip(pixels, first, crop, self.backend)
            rest = replace(crop, left=0) if width > height else replace(crop, top=0)
            plan = replace(plan, ops=tuple(rest if op == crop else op for op in plan.ops[1:]))
        return apply(pixels, plan, self.backend, self.dtype, out)

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "fixed", **asdict(self)}


def shortest_edge(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after the shorter edge became `size`; the longer one is truncated, not rounded.

    >>> shortest_edge(480, 641, 336)
    (336, 448)
    """
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def center_crop(height: int, width: int, side: int, backend: Backend = "torchvision") -> tuple[PixelOp, ...]:
    """The operations that take the centre `side` x `side`; what is smaller gets black borders first, the odd pixel at
    the bottom and right, or with Pillow's processors at the top and left."""
    ops: list[PixelOp] = []
    short_h, short_w = max(0, side - height), max(0, side - width)
    if short_h or short_w:
        # Where one edge is larger, the whole picture is padded to the crop along the other edge only.
        small, large = (short_h // 2, short_w // 2), ((short_h + 1) // 2, (short_w + 1) // 2)
        ops.append(Pad(*small, *large) if backend == "torchvision" else Pad(*large, *small))
        height, width = height + short_h, width + short_w
    if (height, width) != (side, side):
        ops.append(Crop((height - side) // 2, (width - side) // 2, side, side))
    return tuple(ops)


def _in_strips(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether a picture is so long and thin that its resized whole, of which a square is wanted, is too large."""
    return new_height * new_width > max(MAX_RESIZED, 2 * height * width)


def _strip(pixels: np.ndarray, resize: Resize, crop: Crop, backend: Backend) -> np.ndarray:
    """What `crop` leaves of the resized picture along its long side, uint8 [h, w, 3], without the resized whole.

    A resize that enlarges goes over the columns first and over the rows then, and a pass that keeps its side changes
    nothing. So the two can be made one by one, and of the pass along the strip only what the crop leaves is kept. That
    pass treats every line alike, so a tall strip is turned for it and any is taken some lines at a time.
    """
    height, width = pixels.shape[:2]
    if width > height:
        cut = _along(pixels, resize.width, crop.left, crop.width, resize.filter, backend)
        return _run(cut, backend, Resize(resize.height, cut.shape[1], resize.filter))
    narrow = _run(pixels, backend, Resize(height, resize.width, resize.filter))
    cut = _along(narrow.transpose(1, 0, 2), resize.height, crop.top, crop.height, resize.filter, backend)
    return cut.transpose(1, 0, 2)


def _along(lines: np.ndarray, length: int, first: int, count: int, filter: Filter, backend: Backend) -> np.ndarray:
    """Columns first <= i < first + count of the lines resized to `length`."""
    import numpy as np

    lines = np.ascontiguousarray(lines)
    step = max(1, MAX_RESIZED // 2 // length)
    chunks = (lines[at : at + step] for at in range(0, len(lines), step))
    return np.concatenate(
        [_run(some, backend, Resize(len(some), length, filter), Crop(0, first, len(some), count)) for some in chunks]
    )


def _run(pixels: np.ndarray, backend: Backend, *ops: PixelOp) -> np.ndarray:
    """uint8 [H, W, 3] to uint8 [h, w, 3]"""
    from mmdata.views import pixels as interpreter

    made: np.ndarray = interpreter.apply(pixels, ops, backend=backend).numpy()
    return made.transpose(1, 2, 0)
