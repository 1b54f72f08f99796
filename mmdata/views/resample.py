"""Antialiased resizing as torchvision does it, without torchvision.

torchvision imports torch's compiler, which is most of what a worker needs to start; its resize is one call of torch,
or of our own kernel, which has the same bits (`mmdata.native`).
"""

from __future__ import annotations

import functools
import platform

import torch

from mmdata.native import resizing
from mmdata.types import Filter


def resize(image: torch.Tensor, height: int, width: int, filter: Filter) -> torch.Tensor:
    """`image` [..., C, H, W] as [..., C, height, width], of the same type and values as
    `torchvision.transforms.v2.functional.resize_image(..., antialias=True)` gives (version 0.29,
    `_geometry.py`); uint8 stays uint8, rounded after each of the two passes where the processor does that.

    >>> resize(torch.arange(4, dtype=torch.uint8).reshape(1, 1, 4), 1, 2, "bilinear")
    tensor([[[1, 2]]], dtype=torch.uint8)
    """
    channels, rows, columns = image.shape[-3:]
    shape = (*image.shape[:-2], height, width)
    if image.shape[-2:] == (height, width):
        return image
    if not image.numel():
        return image.reshape(-1, channels, rows, columns).new_empty(shape)
    frames = image.reshape(-1, channels, rows, columns)
    if image.dtype == torch.uint8 and _native(filter):
        interleaved = frames.permute(0, 2, 3, 1).numpy()
        if resizing.can_resize(interleaved):
            resized = torch.from_numpy(resizing.resize(interleaved, height, width, filter))
            return resized.permute(0, 3, 1, 2).reshape(shape)
    strides = frames.stride()
    if len(frames) == 1 and frames.numel() != strides[0] and frames.is_contiguous(memory_format=torch.channels_last):
        # Else torch takes one picture for planes, and copies it twice (pytorch issue 68430).
        frames = frames.as_strided(frames.shape, (frames.numel(), *strides[1:]))
    whole = image.dtype == torch.uint8 and not _native(filter)
    if whole:
        frames = frames.to(torch.float32)
    out = torch.nn.functional.interpolate(
        frames, size=[height, width], mode=filter, align_corners=False, antialias=True
    )
    if whole:
        out = out.round_().to(torch.uint8)
    return out.reshape(shape)


@functools.cache
def _native(filter: Filter) -> bool:
    """Whether torch resizes uint8 as such; of bilinear, where it is the faster way."""
    capable = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return filter != "bilinear" or capable or platform.machine() in ("aarch64", "arm64")
