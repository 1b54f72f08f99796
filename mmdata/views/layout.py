"""The last step of a plan: pixels into their final array, planes or rows of patches, normalised as they are written.

Bytes stay bytes until then. `mmdata.native` does all of it in one pass over them. Where that was not compiled, they are
taken apart into planes first, a quarter of the memory of floats, in blocks that stay in the cache of one core from the
first look at a byte to the last division.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from mmdata import memory
from mmdata.native import writing
from mmdata.types import Normalise, Patchify

_NUMPY = {torch.float32: np.float32, torch.uint8: np.uint8}
BLOCK = 1 << 17
"""Values that are worked on at once: float32 of them, and the bytes they come from, fit into 1 MiB."""


@functools.lru_cache(maxsize=64)
def constants(
    mean: tuple[float, ...], std: tuple[float, ...], layout: tuple[int, int, bool] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """mean * 255 and std * 255 in float32, shaped for [..., 3, H, W], or for rows of patches with `layout`, the
    (temporal, size, channels_last) of a `Patchify`."""
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


def write_pictures(
    pieces: Sequence[torch.Tensor],
    normalise: Normalise | None = None,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pieces [..., 3, h, w] after each other: [N, 3, h, w], or [3, h, w] of one that has no leading dimensions.

    Raises ValueError for pieces of several sizes or an `out` that is not what comes out.
    """
    sizes = {tuple(piece.shape[-3:]) for piece in pieces}
    if len(sizes) != 1:
        raise ValueError(f"the branches of a Fork leave pictures of several sizes: {sorted(sizes)}")
    size = sizes.pop()
    counts = [piece.shape[:-3].numel() for piece in pieces]
    single = len(pieces) == 1 and pieces[0].dim() == 3
    dtype = torch.float32 if normalise else pieces[0].dtype
    result = target(size if single else (sum(counts), *size), dtype, out)
    flat = result.view(-1, *size)
    at = 0
    for piece, count in zip(pieces, counts, strict=True):
        into = flat[at : at + count].view(piece.shape)
        at += count
        if piece.dtype == torch.uint8:
            _write_planes(into.numpy(), piece.numpy(), normalise, result.nbytes > LARGE)
        else:
            into.copy_(piece)
            if normalise:
                shift, scale = constants(normalise.mean, normalise.std)
                into.sub_(shift).div_(scale)
    return result


LARGE = 1 << 22
"""Bytes of an array that no core's own cache holds until it is read."""


def _write_planes(into: np.ndarray, pixels: np.ndarray, normalise: Normalise | None, read_late: bool) -> None:
    """uint8 [..., 3, h, w] of any strides into planes; of numpy, channel by channel: it picks every third byte faster
    than torch does."""
    if writing.can_write():
        for picture in np.ndindex(pixels.shape[:-3]):
            writing.write_planes(pixels[picture], into[picture], _values(normalise), read_late=read_late)
        return
    if not normalise:
        for channel in range(3):
            np.copyto(into[..., channel, :, :], pixels[..., channel, :, :])
        return
    shift, scale = _scalars(normalise)
    height, width = pixels.shape[-2:]
    rows = min(height, max(1, BLOCK // width))
    plane = np.empty((rows, width), np.uint8)
    for picture in np.ndindex(pixels.shape[:-3]):
        for top in range(0, height, rows):  # All channels of these rows while their pixels are in the cache.
            for channel in range(3):
                block = into[(*picture, channel)][top : top + rows]
                values = plane[: len(block)]
                np.copyto(values, pixels[(*picture, channel)][top : top + rows])
                np.copyto(block, values)
                np.subtract(block, shift[channel], out=block)
                np.divide(block, scale[channel], out=block)


def _scalars(normalise: Normalise) -> tuple[np.ndarray, np.ndarray]:
    """`constants` as float32 [3] each."""
    shift, scale = constants(normalise.mean, normalise.std)
    return shift.numpy().ravel(), scale.numpy().ravel()


@functools.lru_cache(maxsize=64)
def _values(normalise: Normalise | None) -> writing.Constants | None:
    """The same as numbers."""
    if normalise is None:
        return None
    shift, scale = _scalars(normalise)
    return tuple(map(float, shift)), tuple(map(float, scale))


def write_patches(
    image: torch.Tensor, op: Patchify, normalise: Normalise | None = None, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """[T, 3, H, W] or [3, H, W] to rows of patches [N, D], their ids before them and rows of zeros after them.

    Raises ValueError where blocks of patches do not fill the picture, or it has more than `op.pad_to`.
    """
    frames = image if image.dim() == 4 else image[None]
    count, _, height, width = frames.shape
    block = op.size * op.merge
    if height % block or width % block:
        raise ValueError(f"{height} x {width} pixels are no whole blocks of {block} x {block}")
    grid = -(-count // op.temporal), height // op.size, width // op.size
    rows, values = grid[0] * grid[1] * grid[2], 3 * op.temporal * op.size**2
    total = rows if op.pad_to is None else op.pad_to
    if rows > total:
        raise ValueError(f"{rows} patches do not fit into {total}")
    dtype = torch.float32 if normalise else image.dtype
    if op.grid_ids and dtype == torch.uint8:
        raise ValueError("row and column ids need float32")
    first = 2 if op.grid_ids else 0
    result = target((total, first + values), dtype, out)
    result[rows:].zero_()
    pixels = result[:rows, first:]
    if image.dtype == torch.uint8:
        _write_rows(pixels, frames, op, normalise)
    else:
        cut = _cut(_filled(frames, op.temporal), op)
        pixels.view(cut.shape).copy_(cut)
        if normalise:
            shift, scale = constants(normalise.mean, normalise.std, (op.temporal, op.size, op.channels_last))
            pixels.sub_(shift).div_(scale)
    if op.grid_ids:
        result[:rows, :2] = _grid_ids(grid, op.merge)
    return result


def _write_rows(into: torch.Tensor, frames: torch.Tensor, op: Patchify, normalise: Normalise | None) -> None:
    """uint8 frames into rows; of numpy, some blocks of patches at a time, which stay in the cache until they are done:
    sorted into patches while they are bytes, a row of a patch as one item; taken apart into planes; normalised; and
    written, `temporal` times of a still picture."""
    temporal = 1 if len(frames) == 1 else op.temporal
    frames = _filled(frames, temporal)
    if writing.can_write():
        writing.write_patches(
            frames.numpy(),
            into.numpy(),
            size=op.size,
            merge=op.merge,
            temporal=op.temporal,
            channels_last=op.channels_last,
            constants=_values(normalise),
            read_late=into.nbytes > LARGE,
        )
        return
    source = _source(frames)
    planes, count, height, width, depth = source.shape
    block, area = op.size * op.merge, op.size * op.size
    rows, columns = height // block, width // block
    patches = op.merge * op.merge
    down, across = _step(rows, columns, 3 * temporal * block * block)
    most = 3 * temporal * block * block * down * across
    buffers = np.empty((2, most), np.uint8)  # For all blocks: fresh memory costs as much as work.
    floats = np.empty(most if normalise else 0, np.float32)
    runs = (-1, 3 * area) if op.channels_last else (3, -1)
    if normalise:  # One value for a plane, or runs of a patch instead of three.
        shift, scale = (np.tile(of, area) if op.channels_last else of[:, None] for of in _scalars(normalise))
    row = (-1, 3 * area) if op.channels_last else (3, -1, area)
    places = into.view(count // temporal, rows, columns, patches, *row).numpy()
    for time, top, left in np.ndindex(count // temporal, -(-rows // down), -(-columns // across)):
        place = places[time, top * down : (top + 1) * down, left * across : (left + 1) * across]
        high, wide = place.shape[:2]
        pixels = source[:, time * temporal : (time + 1) * temporal, top * down * block :, left * across * block :]
        pixels = pixels[:, :, : high * block, : wide * block]
        items = pixels.reshape(planes, temporal, high, op.merge, op.size, wide, op.merge, op.size * depth)
        items = items.view(f"V{op.size * depth}")[..., 0].transpose(0, 2, 5, 3, 6, 1, 4)
        values, others = buffers[:, : pixels.size]
        np.copyto(values.view(items.dtype).reshape(items.shape), items)
        if planes == 1 and not op.channels_last:
            np.copyto(others.reshape(3, -1), values.reshape(-1, 3).T)
            values = others
        elif planes == 3 and op.channels_last:
            np.copyto(others.reshape(-1, 3), values.reshape(3, -1).T)
            values = others
        if normalise:
            values = _normalised(values.reshape(runs), shift, scale, floats)
        if op.channels_last:
            np.copyto(place, values.reshape(high, wide, patches, temporal, -1))
        else:
            np.copyto(place, values.reshape(3, high, wide, patches, temporal, -1).transpose(1, 2, 3, 0, 4, 5))


def _source(frames: torch.Tensor) -> np.ndarray:
    """[T, 3, H, W] as [1, T, H, W, 3] where the values of a pixel follow each other, else as [3, T, H, W, 1] whose rows
    do."""
    if frames.stride(1) == 1 and frames.stride(3) == 3:
        return frames.permute(0, 2, 3, 1)[None].numpy()
    source = frames.transpose(0, 1)[..., None].numpy()
    return source if source.strides[3] == 1 else np.ascontiguousarray(source)


def _step(rows: int, columns: int, values: int) -> tuple[int, int]:
    """How many rows and columns of blocks of so many values are worked on at once: whole rows if they fit."""
    fit = max(1, BLOCK // values)
    return (min(rows, fit // columns), columns) if fit >= columns else (1, fit)


def _normalised(values: np.ndarray, shift: np.ndarray, scale: np.ndarray, floats: np.ndarray) -> np.ndarray:
    out = floats[: values.size].reshape(values.shape)
    np.copyto(out, values)
    np.subtract(out, shift, out=out)
    np.divide(out, scale, out=out)
    return out


def _filled(frames: torch.Tensor, temporal: int) -> torch.Tensor:
    """As many frames as `temporal` divides: the last one is repeated."""
    missing = -len(frames) % temporal
    return torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames


def _cut(frames: torch.Tensor, op: Patchify) -> torch.Tensor:
    """A view [T/temporal, rows/merge, columns/merge, merge, merge, *row] of [T, 3, H, W], where a row is
    (3, temporal, size, size) or (temporal, size, size, 3)."""
    block = op.size * op.merge
    rows, columns = frames.shape[-2] // block, frames.shape[-1] // block
    shape = (len(frames) // op.temporal, op.temporal, 3, rows, op.merge, op.size, columns, op.merge, op.size)
    row = (1, 5, 8, 2) if op.channels_last else (2, 1, 5, 8)
    return frames.view(shape).permute(0, 3, 6, 4, 7, *row)


def _grid_ids(grid: tuple[int, int, int], merge: int) -> torch.Tensor:
    """Row and column, from 1, of each patch in the order of the patches: [T' * rows * columns, 2]."""
    times, rows, columns = grid
    shape = (times, rows // merge, merge, columns // merge, merge)
    row_ids = torch.arange(1, rows + 1).view(1, -1, merge, 1, 1).expand(shape)
    column_ids = torch.arange(1, columns + 1).view(1, 1, 1, -1, merge).expand(shape)
    return torch.stack([ids.transpose(2, 3).reshape(-1) for ids in (row_ids, column_ids)], dim=1)


def target(shape: tuple[int, ...], dtype: torch.dtype, out: torch.Tensor | None) -> torch.Tensor:
    """`out`, or an array of its own where there is none. Raises ValueError where `out` is not what is asked for."""
    if out is None:
        return (
            torch.from_numpy(memory.empty(shape, _NUMPY[dtype])) if dtype in _NUMPY else torch.empty(shape, dtype=dtype)
        )
    if out.shape != shape or out.dtype != dtype or not out.is_contiguous():
        raise ValueError(f"out is {out.dtype} {tuple(out.shape)}, wanted is a contiguous {dtype} {shape}")
    return out
