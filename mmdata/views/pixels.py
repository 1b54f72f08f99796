"""The CPU interpreter of pixel operations: uint8 until `Normalise`, each as Hugging Face's fast processors do it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torchvision.transforms.v2.functional as tv
from torchvision.transforms import InterpolationMode

from mmdata.types import Crop, Flip, Normalise, Op, Pad, Resize


def apply(pixels: np.ndarray, ops: Sequence[Op]) -> torch.Tensor:
    """Run the operations over upright pixels uint8 [H, W, 3]; answers channels first, float32 after `Normalise`.

    Resizing is torchvision's antialiased uint8 path (transformers, `image_processing_backends.py`).
    Raises NotImplementedError for an operation without a CPU form.
    """
    image = torch.from_numpy(np.require(pixels, requirements=("C", "W"))).permute(2, 0, 1)
    for op in ops:
        match op:
            case Resize(height, width, name):
                if (height, width) != tuple(image.shape[-2:]):  # the same size comes back untouched
                    image = tv.resize(image, [height, width], InterpolationMode(name), antialias=True)
            case Crop(top, left, height, width):
                image = image[..., top : top + height, left : left + width]
            case Pad(top, left, bottom, right, value):
                height, width = image.shape[-2:]
                fill = torch.tensor(value, dtype=image.dtype)[:, None, None]
                padded = fill.repeat(1, height + top + bottom, width + left + right)
                padded[:, top : top + height, left : left + width] = image
                image = padded
            case Flip():
                image = image.flip(-1)
            case Normalise(mean, std):
                floats = image.to(torch.float32, copy=True).sub_(torch.tensor(mean)[:, None, None] * 255)
                image = floats.div_(torch.tensor(std)[:, None, None] * 255)
            case _:
                raise NotImplementedError(f"no CPU form of {op}")
    return image.contiguous()
