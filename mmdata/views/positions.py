"""Position encodings of patches and frames: sines and cosines, resized tables, fractions and buckets.

Also the door to rotary angles (`mmdata.views.rotary`), M-RoPE (`mmdata.views.mrope`) and attention windows
(`mmdata.views.windows`). Conventions that differ between models have names; there is no default among rivals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmdata.errors import SpecError
from mmdata.views.mrope import Vision, mrope_positions
from mmdata.views.patches import patch_coordinates
from mmdata.views.rotary import rope_1d, rope_2d, rotate
from mmdata.views.windows import frame_cu_seqlens, window_index

if TYPE_CHECKING:
    import torch

__all__ = [
    "Vision",
    "bucketised",
    "factorised",
    "fractional",
    "frame_cu_seqlens",
    "mrope_positions",
    "patch_coordinates",
    "resize_table",
    "rope_1d",
    "rope_2d",
    "rotate",
    "sincos_1d",
    "sincos_2d",
    "temporal_sincos",
    "window_index",
]

SinCos = Literal["mae", "big_vision", "transformers"]
Table = Literal["clip", "naflex", "qwen3"]


def sincos_1d(
    positions: np.ndarray | Sequence[float], width: int, *, temperature: float = 10_000.0, last: bool = False
) -> np.ndarray:
    """Sines, then cosines, of positions [N] (whole or not) at width / 2 frequencies: float32 [N, width].

    Frequency j is temperature^(-j / n) with n = width / 2; `last` spreads them over j / (n - 1), so that the slowest is
    1 / temperature itself. Computed in float64.

    >>> sincos_1d([0, 100], 4).astype(str).tolist()     # sin 100 and sin 1, cos 100 and cos 1
    [['0.0', '0.0', '1.0', '1.0'], ['-0.50636566', '0.84147096', '0.8623189', '0.5403023']]
    """
    number = width // 2
    if number < 1 or width % 2 or (last and number < 2):
        raise SpecError(f"sincos_1d: a width of {width}")
    omega = temperature ** -(np.arange(number, dtype=np.float64) / (number - 1 if last else number))
    angles = np.asarray(positions, np.float64)[:, None] * omega
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def sincos_2d(rows: int, columns: int, width: int, *, variant: SinCos, temperature: float = 10_000.0) -> np.ndarray:
    """Codes of the patches of a grid in raster order: float32 [rows*columns, width], half for each axis.

    - `mae` (facebookresearch/mae `util/pos_embed.py`, MoCo v3): the column first, frequencies over j / (width / 4).
    - `big_vision` (`models/vit.py`): the column first, frequencies over j / (width / 4 - 1).
    - `transformers` (5.23, `models/vit_mae`): as `mae`, but the row first.
    """
    if width % 4 or rows < 1 or columns < 1 or variant not in ("mae", "big_vision", "transformers"):
        raise SpecError(f"sincos_2d: {rows} x {columns} codes of width {width}, variant {variant!r}")
    y, x = np.divmod(np.arange(rows * columns), columns)
    axes = (y, x) if variant == "transformers" else (x, y)
    last = variant == "big_vision"
    return np.concatenate([sincos_1d(axis, width // 2, temperature=temperature, last=last) for axis in axes], axis=1)


def temporal_sincos(
    times: np.ndarray | Sequence[float], width: int, *, rate: float = 1.0, temperature: float = 10_000.0
) -> np.ndarray:
    """Codes of frames by the seconds at which they are shown: float32 [T, width].

    `rate` is positions per second. With the model's own frame rate frame i of a clip at that rate has position i, and a
    frame of a clip at another rate has that of the moment it shows: codes follow time, not the number of samples.

    >>> half, whole = temporal_sincos([0, 0.5, 1.0], 8, rate=2), sincos_1d([0, 1, 2], 8)
    >>> bool((half == whole).all())
    True
    """
    return sincos_1d(np.asarray(times, np.float64) * rate, width, temperature=temperature)


def resize_table(table: torch.Tensor, rows: int, columns: int, *, variant: Table, merge: int = 1) -> torch.Tensor:
    """A learned table [S, S', D] for a grid of `rows` x `columns` patches: [rows*columns, D], of the table's type.

    - `clip` (CLIP, ViT, DINOv2 in transformers): bicubic, a = -0.75, pixel centres, not antialiased.
    - `naflex` (SigLIP 2): bilinear, pixel centres, antialiased.
    - `qwen3` (Qwen3-VL): bilinear, corners on corners.
    Rows come in raster order, or with `merge` in that of `patchify`. Arithmetic is float32.
    """
    import torch
    import torch.nn.functional as F

    if table.dim() != 3 or rows < 1 or columns < 1:
        raise SpecError(f"resize_table: a table {tuple(table.shape)} for {rows} x {columns} patches")
    floats = table.to(torch.float32)
    if variant == "qwen3":
        weights = [
            _corner_weights(number, size) for number, size in ((rows, table.shape[0]), (columns, table.shape[1]))
        ]
        resized = torch.einsum("xj,yjd->yxd", weights[1], torch.einsum("yi,ijd->yjd", weights[0], floats))
    elif variant in ("clip", "naflex"):
        mode, antialias = ("bicubic", False) if variant == "clip" else ("bilinear", True)
        planes = floats.permute(2, 0, 1)[None]
        planes = F.interpolate(planes, (rows, columns), mode=mode, align_corners=False, antialias=antialias)
        resized = planes[0].permute(1, 2, 0)
    else:
        raise SpecError(f"resize_table: variant {variant!r} is none of 'clip', 'naflex', 'qwen3'")
    flat = resized.reshape(rows * columns, -1).to(table.dtype)
    if merge == 1:
        return flat
    row, column = patch_coordinates((1, rows, columns), merge).T
    return flat[torch.from_numpy(row * columns + column)]


def _corner_weights(number: int, size: int) -> torch.Tensor:
    """float32 [number, size]: what each entry of an axis adds to each target when first and last coincide."""
    import torch

    at = torch.arange(number, dtype=torch.float32) * (size - 1) / max(number - 1, 1)
    return (1 - (at[:, None] - torch.arange(size, dtype=torch.float32)).abs()).clamp(min=0)


def fractional(rows: int, columns: int) -> np.ndarray:
    """(row / rows, column / columns) of each patch in raster order: float32 [rows*columns, 2], below 1.

    >>> fractional(2, 2).tolist()
    [[0.0, 0.0], [0.0, 0.5], [0.5, 0.0], [0.5, 0.5]]
    """
    return (patch_coordinates((1, rows, columns)) / (rows, columns)).astype(np.float32)


def factorised(by_row: torch.Tensor, by_column: torch.Tensor, coordinates: np.ndarray) -> torch.Tensor:
    """NaViT: the sum of a row's and a column's embedding for each patch, [N, D] from tables [S, D] and [S', D].

    Whole `coordinates` [N, 2] are places in the tables (absolute positions). Fractions (`fractional`) are stretched
    over them, so that aspect and resolution do not matter: fraction f is looked up at int(f * S).
    """
    import torch

    sizes = by_row.shape[0], by_column.shape[0]
    if np.issubdtype(coordinates.dtype, np.floating):
        # float32 can leave i / n just below the fraction that it is; a place is not lost for that.
        coordinates = np.floor((coordinates.astype(np.float64) + 2.0**-23) * sizes).astype(np.int64)
    if coordinates.size and (coordinates.min() < 0 or (coordinates >= sizes).any()):
        raise SpecError(f"factorised: places up to {coordinates.max(axis=0)} in tables of {sizes}")
    row, column = torch.from_numpy(np.ascontiguousarray(coordinates.T))
    return by_row[row] + by_column[column]


def bucketised(
    rows: int, columns: int, side: int, *, variant: Literal["minicpmv", "idefics2"] = "minicpmv"
) -> np.ndarray:
    """Places of the patches of a grid in a table of `side` x `side`, by the fraction of the way: int64 [rows*columns].

    `bucketize(i / n, arange(1/side, 1, 1/side), right=True)` along each axis, in float32, where a fraction can fall
    just short of its border; `idefics2` (and 3) multiplies by 1/n where `minicpmv` (and Bagel) divides by n, which
    falls short elsewhere (transformers, `vision_utils.get_vision_nearest_position_ids`, `models/idefics2`).

    >>> bucketised(2, 3, 4).tolist()
    [0, 1, 2, 8, 9, 10]
    """
    import torch

    if min(rows, columns, side) < 1 or variant not in ("minicpmv", "idefics2"):
        raise SpecError(f"bucketised: {rows} x {columns} patches in {side} x {side} places, variant {variant!r}")
    borders = torch.arange(1 / side, 1.0, 1 / side)
    places = []
    for number in (rows, columns):
        steps = torch.arange(number, dtype=torch.float32)
        share = steps / number if variant == "minicpmv" else (steps * (1.0 / torch.tensor(number))).clamp(max=1 - 1e-6)
        places.append(torch.bucketize(share, borders, right=True))
    result: np.ndarray = (places[0][:, None] * side + places[1]).reshape(-1).numpy()
    return result
