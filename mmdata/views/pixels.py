"""The CPU interpreter of pixel operations: uint8 as far as it goes, normalised once, into the final layout.

Every operation is what Hugging Face's fast processors do (transformers, `image_processing_backends.py`). What follows
the last change of pixels, `Normalise` and `Patchify`, is one copy into the output and two passes over it in place.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize_image

from mmdata.types import Crop, Flip, Fork, Normalise, Op, Pad, Patchify, Resize, Standardise, Tile

Backend = Literal["torchvision", "pil"]
_TORCHVISION = {name: InterpolationMode(name) for name in ("bilinear", "bicubic", "lanczos")}
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
    body, normalise, patchify = _tail(ops)
    if dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"pixels become float32 or uint8, not {dtype}")
    if dtype == torch.uint8:
        normalise = None
    pieces = _run([_picture(pixels)], body, backend)
    if dtype == torch.uint8 and pieces[0].dtype != torch.uint8:
        raise ValueError(f"these operations need float32 before their end: {ops}")
    made = torch.float32 if normalise else pieces[0].dtype
    return _write_patches(pieces, normalise, patchify, made, out) if patchify else _write(pieces, normalise, made, out)


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
    shift, scale = _constants(tuple(mean), tuple(std), patchify and _layout(patchify))
    floats = pixels.to(torch.float32).sub_(shift.to(pixels.device)).div_(scale.to(pixels.device))
    return floats if mask is None else floats.mul_(mask[..., None] != 0)


def _tail(ops: Sequence[Op]) -> tuple[Sequence[Op], Normalise | None, Patchify | None]:
    """The operations before a final `Normalise` and `Patchify`, and these two, which are done while writing."""
    patchify = ops[-1] if ops and isinstance(ops[-1], Patchify) else None
    ops = ops[:-1] if patchify else ops
    normalise = ops[-1] if ops and isinstance(ops[-1], Normalise) else None
    return ops[:-1] if normalise else ops, normalise, patchify


def _picture(pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Channels before height and width, as a view: images stay channels-last in memory, which the resize is fast on."""
    if isinstance(pixels, torch.Tensor):
        picture = pixels
    elif pixels.ndim == 3:
        picture = torch.from_numpy(np.require(pixels, requirements="W")).permute(2, 0, 1)
    else:
        picture = torch.from_numpy(np.require(pixels, requirements="W"))
    if picture.dtype != torch.uint8 or picture.dim() not in (3, 4) or picture.shape[-3] != 3 or not picture.numel():
        raise ValueError(f"no picture [H, W, 3] or video [T, 3, H, W] of uint8: {pixels.dtype} {tuple(pixels.shape)}")
    return picture


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
            resized: torch.Tensor = resize_image(image, [to_height, to_width], _TORCHVISION[name], antialias=True)
            return resized
        case Crop(top, left, rows, columns):
            if top < 0 or left < 0 or top + rows > height or left + columns > width:
                raise ValueError(f"{op} leaves a picture of {height} x {width}")
            return image[..., top : top + rows, left : left + columns]
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
            shift, scale = _constants(mean, std)
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


@functools.lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], layout: tuple[int, int, bool] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """mean * 255 and std * 255 in float32, shaped for [..., 3, H, W] or, with `layout`, for rows of patches."""
    both = []
    for values in (mean, std):
        constant = torch.tensor(values, dtype=torch.float32) * 255
        if layout is None:
            both.append(constant[:, None, None])
        else:
            temporal, side, channels_last = layout
            pixels = temporal * side * side
            both.append(constant.repeat(pixels) if channels_last else constant.repeat_interleave(pixels))
    return both[0], both[1]


def _layout(op: Patchify) -> tuple[int, int, bool]:
    return op.temporal, op.size, op.channels_last


def _target(shape: tuple[int, ...], dtype: torch.dtype, out: torch.Tensor | None) -> torch.Tensor:
    if out is None:
        return torch.empty(shape, dtype=dtype)
    if out.shape != shape or out.dtype != dtype or not out.is_contiguous():
        raise ValueError(f"out is {out.dtype} {tuple(out.shape)}, wanted is a contiguous {dtype} {shape}")
    return out


def _write(
    pieces: list[torch.Tensor], normalise: Normalise | None, dtype: torch.dtype, out: torch.Tensor | None
) -> torch.Tensor:
    """The pieces after each other, in one array."""
    sizes = {tuple(piece.shape[-3:]) for piece in pieces}
    if len(sizes) != 1:
        raise ValueError(f"the branches of a Fork leave pictures of several sizes: {sorted(sizes)}")
    counts = [piece.shape[:-3].numel() for piece in pieces]
    picture = len(pieces) == 1 and pieces[0].dim() == 3
    result = _target((*(() if picture else (sum(counts),)), *sizes.pop()), dtype, out)
    at = 0
    for piece, count in zip(pieces, counts, strict=True):
        target = (result if picture else result[at : at + count]).view(piece.shape)
        at += count
        target.copy_(piece)
        if normalise:
            shift, scale = _constants(normalise.mean, normalise.std)
            target.sub_(shift).div_(scale)
    return result


def _write_patches(
    pieces: list[torch.Tensor],
    normalise: Normalise | None,
    op: Patchify,
    dtype: torch.dtype,
    out: torch.Tensor | None,
) -> torch.Tensor:
    """Rows of patches, their ids before them and rows of zeros after them."""
    if len(pieces) != 1 or pieces[0].dim() > 4:
        raise ValueError("Patchify needs one picture [3, H, W] or one video [T, 3, H, W]")
    if op.grid_ids and dtype == torch.uint8:
        raise ValueError("row and column ids need float32")
    patches = _patches(pieces[0], op)
    rows, width = patches.shape[:5].numel(), patches.shape[5:].numel()
    total = rows if op.pad_to is None else op.pad_to
    if rows > total:
        raise ValueError(f"{rows} patches do not fit into {total}")
    first = 2 if op.grid_ids else 0
    result = _target((total, first + width), dtype, out)
    result[rows:].zero_()
    pixels = result[:rows, first:]
    pixels.view(patches.shape).copy_(patches)
    if normalise:
        shift, scale = _constants(normalise.mean, normalise.std, _layout(op))
        pixels.sub_(shift).div_(scale)
    if op.grid_ids:
        frames, block_rows, block_columns = patches.shape[:3]
        shape = (frames, block_rows, op.merge, block_columns, op.merge)
        row_ids = torch.arange(1, block_rows * op.merge + 1).view(1, block_rows, op.merge, 1, 1).expand(shape)
        column_ids = torch.arange(1, block_columns * op.merge + 1).view(1, 1, 1, -1, op.merge).expand(shape)
        for column, ids in enumerate((row_ids, column_ids)):
            result[:rows, column] = ids.transpose(2, 3).reshape(-1)
    return result


def _patches(image: torch.Tensor, op: Patchify) -> torch.Tensor:
    """A view [T/temporal, rows/merge, columns/merge, merge, merge, *row] of [T, 3, H, W] or [3, H, W], where a row is
    (3, temporal, size, size) or (temporal, size, size, 3)."""
    if image.dim() == 3:
        image = image[None]
    if missing := -len(image) % op.temporal:
        last = image[-1:].expand(missing, -1, -1, -1)
        image = last[:1].expand(op.temporal, -1, -1, -1) if len(image) == 1 else torch.cat([image, last])
    height, width = image.shape[-2:]
    block = op.size * op.merge
    if height % block or width % block:
        raise ValueError(f"{height} x {width} pixels are no whole blocks of {block} x {block}")
    rows, columns = height // block, width // block
    shape = (len(image) // op.temporal, op.temporal, 3, rows, op.merge, op.size, columns, op.merge, op.size)
    row = (1, 5, 8, 2) if op.channels_last else (2, 1, 5, 8)
    return image.view(shape).permute(0, 3, 6, 4, 7, *row)
