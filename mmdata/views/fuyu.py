"""Fuyu: an image near its own size, filled up to whole patches."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mmdata.errors import DataError, SpecError
from mmdata.types import Filter, Media, MediaPlan, Normalise, Pad, Patchify, PixelOp, Resize
from mmdata.views._picture import HALF, Backend, Colour, apply, check_memory, size_of
from mmdata.views.patches import check_patches

if TYPE_CHECKING:
    import numpy as np
    import torch

FILL = (1, 1, 1)
"""What is filled up, of 0..255: the processor's `padding_value` of 1.0 comes before values are divided by 255."""


def fuyu_size(height: int, width: int, most_height: int = 1080, most_width: int = 1920) -> tuple[int, int]:
    """The size of an image that is made to fit, where it does not, and is never made larger (transformers,
    `models/fuyu/image_processing_fuyu.py`).

    >>> fuyu_size(480, 640), fuyu_size(3024, 4032), fuyu_size(1081, 1920)
    ((480, 640), (1080, 1440), (1080, 1918))
    """
    if height < 1 or width < 1:
        raise DataError("no_pixels", f"{height} x {width} pixels")
    if width <= most_width and height <= most_height:
        return height, width
    scale = min(most_height / height, most_width / width)
    return max(1, int(height * scale)), max(1, int(width * scale))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuyu:
    """An image, made to fit into `height` x `width` where it is larger and filled up at the bottom and the right,
    becomes gh x gw patches, float32 [gh*gw, patch*patch*3], channels last within a row, and as many tokens.
    (transformers: `FuyuImageProcessor`, the patches that it keeps.)
    """

    patch: int = 30
    height: int = 1080
    width: int = 1920
    filter: Filter = "bilinear"
    mean: Colour = HALF
    std: Colour = HALF
    backend: Backend = "torchvision"

    def __post_init__(self) -> None:
        check_patches("fuyu", self.patch, 1, 1)
        if min(self.height, self.width) < self.patch:
            raise SpecError(f"view fuyu: {self.height} x {self.width} pixels hold no patch of {self.patch}")

    def plan(self, facts: Media | tuple[int, int]) -> MediaPlan:
        """What becomes of an image of `facts.height` x `facts.width` pixels. Raises DataError `no_facts`.

        >>> plan = Fuyu().plan(Media(kind="image", height=480, width=640))
        >>> plan.grid, plan.tokens, plan.shape     # 640 pixels are 21 patches and a third
        ((1, 16, 22), 352, (352, 2700))
        """
        height, width = size_of(facts)
        new_h, new_w = fuyu_size(height, width, self.height, self.width)
        rows, columns = -(-new_h // self.patch), -(-new_w // self.patch)
        ops: list[PixelOp] = [] if (new_h, new_w) == (height, width) else [Resize(new_h, new_w, self.filter)]
        fill = rows * self.patch - new_h, columns * self.patch - new_w
        if any(fill):
            ops.append(Pad(0, 0, *fill, FILL))
        check_memory((height, width), (Resize(rows * self.patch, columns * self.patch, self.filter),))
        return MediaPlan(
            kind="image",
            tokens=rows * columns,
            shape=(rows * columns, 3 * self.patch**2),
            ops=(*ops, Normalise(self.mean, self.std), Patchify(self.patch, channels_last=True)),
            size=(height, width),
            grid=(1, rows, columns),
        )

    def realize(self, pixels: np.ndarray, plan: MediaPlan) -> torch.Tensor:
        """Upright pixels uint8 [H, W, 3] of the planned size to patches of `plan.shape`."""
        return apply(pixels, plan, self.backend, "float32")

    def smaller(self) -> Fuyu | None:
        """The view with half the pixels, or None at one patch."""
        height, width = self.height * 5 // 7, self.width * 5 // 7
        return replace(self, height=height, width=width) if min(height, width) >= self.patch else None

    def describe(self) -> dict[str, Any]:
        """The parameters, for digests and messages."""
        return {"view": "fuyu", **asdict(self)}
