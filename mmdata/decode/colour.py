"""Changes of colour: brightness, contrast, saturation and hue of uint8 pictures, as torchvision makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdata.types import Colour

if TYPE_CHECKING:
    import torch


def adjust(image: torch.Tensor, op: Colour) -> torch.Tensor:
    """`image` uint8 [..., 3, H, W] with the operation's factors applied, in the order of its fields.

    Contrast is about the mean grey of each picture. (torchvision: `adjust_brightness`, `adjust_contrast`,
    `adjust_saturation`, `adjust_hue`.)
    """
    # torchvision imports all of torch's compiler, most of the time that a worker takes to start; few augment colours.
    import torchvision.transforms.v2.functional as tv

    if op.brightness != 1000:
        image = tv.adjust_brightness(image, op.brightness / 1000)
    if op.contrast != 1000:
        image = tv.adjust_contrast(image, op.contrast / 1000)
    if op.saturation != 1000:
        image = tv.adjust_saturation(image, op.saturation / 1000)
    if op.hue:
        image = tv.adjust_hue(image, op.hue / 1000)
    return image
