"""Patches: cutting pixels into rows, the coordinates of those rows in their picture, and which of them are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmdata.errors import SpecError
from mmdata.rng import kept_rows
from mmdata.types import KeepRows, Patchify

if TYPE_CHECKING:
    import torch


def patchify(
    pixels: torch.Tensor,
    size: int = 14,
    *,
    merge: int = 1,
    temporal: int = 1,
    channels_last: bool = False,
    grid_ids: bool = False,
    pad_to: int | None = None,
) -> torch.Tensor:
    """Cut [3, H, W] or [T, 3, H, W] of any type into rows of patches [N, D] as `mmdata.types.Patchify` describes.

    Qwen-VL: `size=14, merge=2, temporal=2`. NaFlex: `size=16, channels_last=True, pad_to=256`.
    Raises ValueError where whole blocks of patches do not fill the picture.

    >>> import torch
    >>> patchify(torch.arange(12).view(3, 2, 2), 1)            # rows hold (channel, y, x)
    tensor([[ 0,  4,  8], [ 1,  5,  9], [ 2,  6, 10], [ 3,  7, 11]])
    """
    from mmdata.views.layout import write_patches

    op = Patchify(size, merge, temporal, channels_last, grid_ids, pad_to)
    return write_patches(pixels, op)


def patch_coordinates(grid: tuple[int, int, int], merge: int = 1) -> np.ndarray:
    """(row, column) of each patch of a grid (t, rows, columns) in the order of `patchify`: int64 [t*rows*columns, 2].

    With `merge` 2 blocks of 2 x 2 patches follow each other, and every frame repeats the first (transformers,
    `vision_utils.get_vision_position_ids`).

    >>> patch_coordinates((1, 2, 4), merge=2).T.tolist()
    [[0, 0, 1, 1, 0, 0, 1, 1], [0, 1, 0, 1, 2, 3, 2, 3]]
    """
    frames, rows, columns = grid
    if merge < 1 or rows % merge or columns % merge:
        raise SpecError(f"a grid of {rows} x {columns} patches holds no whole blocks of {merge} x {merge}")
    both = np.indices((rows, columns), dtype=np.int64)
    blocks = both.reshape(2, rows // merge, merge, columns // merge, merge).transpose(1, 3, 2, 4, 0).reshape(-1, 2)
    return np.tile(blocks, (frames, 1))


def keep_rows(rows: int, op: KeepRows) -> np.ndarray:
    """Indices of the rows that the operation keeps, ascending: int64 [op.count]."""
    return kept_rows(rows, op.count, op.key)


def check_patches(
    view: str, patch: int, merge: int, temporal: int, min_pixels: int = 1, max_pixels: int | None = None
) -> None:
    """Raises SpecError for parameters that leave no patch."""
    if min(patch, merge, temporal, min_pixels) < 1 or (max_pixels is not None and max_pixels < min_pixels):
        raise SpecError(
            f"view {view}: patch {patch}, merge {merge}, temporal {temporal}, min_pixels {min_pixels} and "
            f"max_pixels {max_pixels} leave no patch"
        )
