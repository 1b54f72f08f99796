"""The CPU interpreter of pixel operations: uint8 as far as it goes, normalised once, into the final layout.

Every operation is what Hugging Face's fast processors do (transformers, `image_processing_backends.py`). What follows
the last change of pixels, `Normalise` and `Patchify`, is `mmdata.views.layout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image

from mmdata.decode.colour import adjust
from mmdata.types import Colour, Crop, Flip, Fork, KeepRows, Normalise, Op, Pad, Patchify, Resize, Standardise, Tile
from mmdata.views.layout import constants, target, write_patches, write_pictures
from mmdata.views.patches import keep_rows
from mmdata.views.resample import resize

Backend = Literal["torchvision", "pil"]
_PILLOW = {name: Image.Resampling[name.upper()] for name in ("bilinear", "bicubic", "lanczos")}


def apply(
    pixels: np.ndarray | torch.Tensor,
    ops: Sequence[Op],
    *,
    backend: Backend = "torchvision",
    dtype: torch.dtype = torch.float32,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run the operations over an upright image, uint8 [H, W, 3] (numpy), or the frames of a video, uint8 [T, 3, H, W].

    Answers what the last operation leaves, contiguous: [3, h, w] or [N, 3, h, w], or rows of patches; uint8 until
    `Normalise` or `Standardise`, float32 from there. `dtype=torch.uint8` leaves `Normalise` to `normalise_on_device`.
    `out` takes the result; it must be contiguous and of its shape and type.

    `backend="torchvision"` resizes as torchvision's antialiased uint8 path does, `"pil"` as Pillow does (its version 13
    chooses the order of its two passes by the sizes; the other always goes width first). float32, which only exists
    after `Standardise` or an early `Normalise`, is resized by torchvision in either case.

    Raises ValueError for operations that do not fit each other or the pixels: a view that plans such is wrong.
    """
    if ops and isinstance(ops[-1], KeepRows):
        rows = apply(pixels, ops[:-1], backend=backend, dtype=dtype)
        if rows.dim() != 2:
            raise ValueError("KeepRows needs rows of patches")
        kept = torch.from_numpy(keep_rows(len(rows), ops[-1]))
        return torch.index_select(rows, 0, kept, out=target((len(kept), rows.shape[1]), rows.dtype, out))
    body, normalise, patchify = _tail(ops)
    if dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"pixels become float32 or uint8, not {dtype}")
    if dtype == torch.uint8:
        normalise = None
    pieces = _run([_picture(pixels)], body, backend)
    if dtype == torch.uint8 and pieces[0].dtype != torch.uint8:
        raise ValueError(f"these operations need float32 before their end: {ops}")
    if patchify is None:
        return write_pictures(pieces, normalise, out=out)
    if len(pieces) != 1 or pieces[0].dim() > 4:
        raise ValueError("Patchify needs one picture [3, H, W] or one video [T, 3, H, W]")
    return write_patches(pieces[0], patchify, normalise, out=out)


def normalise_on_device(
    pixels: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    patchify: Patchify | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """What `dtype=torch.uint8` left out: uint8 [..., 3, H, W] (rows [..., D] of `patchify`) to float32, bit for bit
    what `apply` gives.

    `mask`, of the rows' leading dimensions, is zero for the rows that `patchify.pad_to` added: they stay zero.
    """
    layout = patchify and (patchify.temporal, patchify.size, patchify.channels_last)
    shift, scale = constants(tuple(mean), tuple(std), layout)
    floats = pixels.to(torch.float32).sub_(shift.to(pixels.device)).div_(scale.to(pixels.device))
    return floats if mask is None else floats.mul_(mask[..., None] != 0)


def _tail(ops: Sequence[Op]) -> tuple[Sequence[Op], Normalise | None, Patchify | None]:
    """The operations before a final `Normalise` and `Patchify`, and these two, which are done while writing."""
    patchify = ops[-1] if ops and isinstance(ops[-1], Patchify) else None
    ops = ops[:-1] if patchify else ops
    normalise = ops[-1] if ops and isinstance(ops[-1], Normalise) else None
    return ops[:-1] if normalise else ops, normalise, patchify


def _picture(pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Channels before height and width as a view of channels-last memory, in which resizing takes half the time."""
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(np.require(pixels, requirements="W"))
        pixels = pixels.permute(2, 0, 1) if pixels.dim() == 3 else pixels
    if pixels.dtype != torch.uint8 or pixels.dim() not in (3, 4) or pixels.shape[-3] != 3 or not pixels.numel():
        raise ValueError(f"no picture [H, W, 3] or video [T, 3, H, W] of uint8: {pixels.dtype} {tuple(pixels.shape)}")
    return _channels_last(pixels) if pixels.dim() == 4 else pixels


def _channels_last(video: torch.Tensor) -> torch.Tensor:
    if video.stride(-3) == 1:
        return video
    last = np.empty((len(video), *video.shape[-2:], 3), np.uint8)
    for channel in range(3):  # Faster than torch's own copy between the two layouts.
        np.copyto(last[..., channel], video[:, channel].numpy())
    return torch.from_numpy(last).permute(0, 3, 1, 2)


def _run(pieces: list[torch.Tensor], ops: Sequence[Op], backend: Backend) -> list[torch.Tensor]:
    """Pieces [..., 3, h, w], possibly strided, that after each other are the result."""
    for op in ops:
        if isinstance(op, Fork):
            if len(pieces) != 1 or pieces[0].dim() != 3:
                raise ValueError("Fork needs one picture [3, H, W]")
            branches = [_run(pieces, branch, backend) for branch in op.branches]
            pieces = [piece if piece.dim() > 3 else piece[None] for branch in branches for piece in branch]
        else:
            pieces = [_step(piece, op, backend) for piece in pieces]
    return pieces


def _step(image: torch.Tensor, op: Op, backend: Backend) -> torch.Tensor:
    height, width = image.shape[-2:]
    match op:
        case Resize(to_height, to_width, name):
            if (to_height, to_width) == (height, width):  # The same size comes back untouched.
                return image
            if backend == "pil" and image.dtype == torch.uint8:
                return _pillow_resize(image, op)
            if to_height == to_width == 1:  # Torch fails to make a single pixel of contiguous planes.
                image = image.movedim(-3, -1).contiguous().movedim(-1, -3)
            return resize(image, to_height, to_width, name)
        case Crop(top, left, rows, columns):
            if top < 0 or left < 0 or top + rows > height or left + columns > width:
                raise ValueError(f"{op} leaves a picture of {height} x {width}")
            return image[..., top : top + rows, left : left + columns]
        case Colour():
            return adjust(image, op)
        case Pad():
            return _pad(image, op)
        case Flip():
            return image.flip(-1)
        case Tile(rows, columns):
            if height % rows or width % columns:
                raise ValueError(f"{op} does not divide a picture of {height} x {width}")
            cut = image.view(*image.shape[:-2], rows, height // rows, columns, width // columns)
            return cut.movedim((-4, -2), (-5, -4))
        case Standardise(unbiased):
            return _standardise(image, unbiased)
        case Normalise(mean, std):
            shift, scale = constants(mean, std)
            return image.to(torch.float32, copy=True).sub_(shift).div_(scale)
        case _:
            raise ValueError(f"{op} is no step of a list of pixel operations, or not where it stands")


def _pillow_resize(image: torch.Tensor, op: Resize) -> torch.Tensor:
    frames = image.reshape(-1, *image.shape[-3:]).movedim(-3, -1).numpy()
    size = (op.width, op.height)
    resized = [np.array(Image.fromarray(frame).resize(size, _PILLOW[op.filter])) for frame in frames]
    stacked = torch.from_numpy(np.stack(resized) if len(resized) > 1 else resized[0][None])
    return stacked.movedim(-1, -3).reshape(*image.shape[:-2], op.height, op.width)


def _pad(image: torch.Tensor, op: Pad) -> torch.Tensor:
    height, width = image.shape[-2:]
    # In channels-last memory, as the pictures that come and go.
    shape = (*image.shape[:-3], height + op.top + op.bottom, width + op.left + op.right, 3)
    if len(set(op.value)) == 1:
        padded = torch.full(shape, op.value[0], dtype=image.dtype)
    else:
        padded = torch.tensor(op.value, dtype=image.dtype).expand(shape).contiguous()
    padded = padded.movedim(-1, -3)
    padded[..., op.top : op.top + height, op.left : op.left + width] = image
    return padded


def _standardise(image: torch.Tensor, unbiased: bool) -> torch.Tensor:
    """Mean and deviation of the picture (of each frame) are those of its histogram: exact, whatever its size."""
    frames = image.reshape(-1, *image.shape[-3:])
    out = torch.empty(frames.shape, dtype=torch.float32)
    levels = torch.arange(256, dtype=torch.float64)
    for frame, floats in zip(frames, out, strict=True):
        counts = torch.bincount(frame.reshape(-1), minlength=256).to(torch.float64)
        number = frame.numel()
        mean = (counts @ levels) / number
        variance = (counts @ (levels - mean) ** 2) / (number - 1 if unbiased else number)
        floats.copy_(frame).sub_(float(mean)).div_(max(float(variance.sqrt()), number**-0.5))
    return out.reshape(image.shape)
