"""The fixed view: shortest edge resized, centre cropped, normalised, as CLIP and LLaVA-1.5 see an image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mmdata.errors import DataError, SpecError
from mmdata.types import Crop, Media, MediaPlan, Normalise, Pad, PixelOp, Resize

if TYPE_CHECKING:
    import numpy as np
    import torch

MAX_RESIZED = 1 << 27
"""Pixels: a strip of a picture, resized by its short edge before it is cropped, must not fill the memory."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """Every image becomes `crop` x `crop` pixels and (crop / patch)^2 tokens.

    `size` is the length of the shortest edge after resizing, `crop` (default: `size`) the side of the centre
    crop, `patch` the side of a vision patch, all in pixels; `mean` and `std` are for values in 0..1.
    (transformers: `CLIPImageProcessor`, torchvision backend.)
    """

    size: int = 336
    crop: int | None = None
    patch: int = 14
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        if self.size < 1 or self.patch < 1 or self.side < self.patch:
            raise SpecError(f"view fixed: size {self.size}, crop {self.side} and patch {self.patch} leave no patch")

    @property
    def side(self) -> int:
        return self.crop or self.size

    def plan(self, facts: Media) -> MediaPlan:
        """What becomes of an image of `facts.height` x `facts.width` pixels.

        >>> plan = Fixed(size=56).plan(Media(kind="image", height=100, width=301))
        >>> plan.tokens, plan.shape, plan.ops[:2]     # 56 * 301 / 100 = 168.56, truncated
        (16, (3, 56, 56), (Resize(height=56, width=168, filter='bicubic'), Crop(top=0, left=56, height=56, width=56)))
        """
        if not facts.height or not facts.width:
            raise DataError("no_facts", "height and width of the image are not known; build it with a `probe` step")
        height, width = shortest_edge(facts.height, facts.width, self.size)
        if height * width > MAX_RESIZED:
            raise DataError("aspect_extreme", f"{facts.height} x {facts.width} would be resized to {height} x {width}")
        return MediaPlan(
            kind="image",
            tokens=(self.side // self.patch) ** 2,
            shape=(3, self.side, self.side),
            ops=(Resize(height, width), *center_crop(height, width, self.side), Normalise(self.mean, self.std)),
        )

    def realize(self, pixels: np.ndarray, plan: MediaPlan) -> torch.Tensor:
        """Upright pixels uint8 [H, W, 3] of the planned size to float32 [3, crop, crop]."""
        from mmdata.views.pixels import apply

        return apply(pixels, plan.ops)

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


def center_crop(height: int, width: int, side: int) -> list[PixelOp]:
    """The operations that take the centre `side` x `side`; what is smaller gets black borders first."""
    ops: list[PixelOp] = []
    short_h, short_w = max(0, side - height), max(0, side - width)
    if short_h or short_w:
        # Where one edge is larger, the whole picture is padded to the crop along the other edge only.
        ops.append(Pad(short_h // 2, short_w // 2, (short_h + 1) // 2, (short_w + 1) // 2))
        height, width = height + short_h, width + short_w
    if (height, width) != (side, side):
        ops.append(Crop(int((height - side) / 2.0), int((width - side) / 2.0), side, side))
    return ops
