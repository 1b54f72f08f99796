"""What the views of pictures share: the size from the facts, the memory bound, padding, the published statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mmdata.errors import DataError
from mmdata.types import Crop, Fork, Media, MediaPlan, Op, Pad, PixelOp, Resize

if TYPE_CHECKING:
    import numpy as np
    import torch

Backend = Literal["torchvision", "pil"]
"""Whose resize: transformers' torchvision processors (their default) or their Pillow ones."""
Dtype = Literal["float32", "uint8"]
"""What a view makes: normalised values, or the same pictures not yet normalised."""
Colour = tuple[float, float, float]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of SigLIP: values in 0..1 become -1..1."""

MAX_RESIZED = 1 << 27
"""Pixels of a picture while it is resized or padded: a strip must not fill the memory where a photograph would not."""


def size_of(facts: Media | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture. Raises DataError `no_facts` where they are not known."""
    height, width = (facts.height, facts.width) if isinstance(facts, Media) else facts
    if not height or not width:
        raise DataError("no_facts", "height and width of the image are not known; build it with a `probe` step")
    return height, width


def check_memory(size: tuple[int, int], ops: Sequence[Op]) -> None:
    """Raise DataError `aspect_extreme` where an operation on a picture of `size` (height, width) would take more than
    MAX_RESIZED, or twice the pixels of the picture itself where that is more. Resizing goes through a picture of the
    old height and the new width."""
    height, width = size
    limit = max(MAX_RESIZED, 2 * height * width)
    for op in ops:
        match op:
            case Resize(new_height, new_width):
                largest = max(height, new_height) * new_width
                height, width = new_height, new_width
            case Pad(top, left, bottom, right):
                height, width = height + top + bottom, width + left + right
                largest = height * width
            case Crop():
                height, width = op.height, op.width
                continue
            case Fork(branches):
                for branch in branches:
                    check_memory((height, width), branch)
                continue
            case _:
                continue
        if largest > limit:
            raise DataError(
                "aspect_extreme", f"{size[0]} x {size[1]} pixels would become {largest:,} pixels on the way"
            )


def square(height: int, width: int, mean: Colour) -> tuple[PixelOp, ...]:
    """The operations that put a picture in the middle of a square of the mean colour.

    >>> square(2, 5, (0.5, 0.5, 0.5))
    (Pad(top=1, left=0, bottom=2, right=0, value=(127, 127, 127)),)
    """
    if height == width:
        return ()
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    red, green, blue = (int(value * 255) for value in mean)
    return (Pad(top, left, side - height - top, side - width - left, (red, green, blue)),)


def apply(
    pixels: np.ndarray, plan: MediaPlan, backend: Backend, dtype: Dtype, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Upright pixels uint8 [H, W, 3] of the planned size to `plan.shape`, in `out` where that is given."""
    import torch

    from mmdata.views import pixels as interpreter

    return interpreter.apply(pixels, plan.ops, backend=backend, dtype=getattr(torch, dtype), out=out)
