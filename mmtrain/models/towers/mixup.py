"""Feature mixup across resolutions: what a tower makes of a picture and of the same at half the size, mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from mmdata.views.patches import patch_coordinates
from mmtrain.models.connectors.patches import in_blocks


def mixed(
    tower: Any,
    config: Any,
    pixels: torch.Tensor,
    rows: torch.Tensor,
    coordinates: torch.Tensor,
    grids: Sequence[tuple[int, int]],
) -> torch.Tensor:
    """Features [P, hidden] of whole pictures as lambda * features + (1 - lambda) * those of half the rows and columns,
    stretched over the grid: [P, hidden].

    lambda ~ Beta(alpha, alpha) is drawn for each picture, as of mixup (Zhang et al. 2018, arXiv 1710.09412, §2), where
    alpha is the tower's `mixup`. Both are of one picture, so nothing else is mixed. Pixels are averaged down, features
    stretched bilinearly (pixel centres). It costs the tower a quarter more.
    """
    alpha, patch = tower.mixup, config.vision_config.patch_size
    shares = torch.distributions.Beta(alpha, alpha).sample((len(grids),)).to(rows)
    lengths = [h * w for h, w in grids]
    small = [(-(-h // 2), -(-w // 2)) for h, w in grids]
    halves = [
        _halved(_raster(piece, place), grid, half, patch)
        for piece, place, grid, half in zip(
            pixels.split(lengths), coordinates.split(lengths), grids, small, strict=True
        )
    ]
    where = torch.cat([torch.from_numpy(patch_coordinates((1, *half))) for half in small]).to(pixels.device)
    counts = [h * w for h, w in small]
    low = tower(torch.cat(halves), where, counts, small, config.vision_layer)
    made = []
    for piece, half, grid, share, own in zip(low.split(counts), small, grids, shares, rows.split(lengths), strict=True):
        plane = piece.T.unflatten(1, half)[None]
        wide = F.interpolate(plane.float(), grid, mode="bilinear", align_corners=False)[0].flatten(1).T.to(own.dtype)
        made.append(share * own + (1 - share) * in_blocks(wide[None], grid[0], config.merge))
    return torch.cat(made)


def _raster(pixels: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
    """Patches of one picture in raster order, whatever order they come in."""
    row, column = coordinates.to(pixels.device).unbind(-1)
    return pixels[torch.argsort(row * (int(column.max()) + 1) + column)]


def _halved(pixels: torch.Tensor, grid: tuple[int, int], half: tuple[int, int], patch: int) -> torch.Tensor:
    """Patches (channel, y, x) of a picture in raster order -> those of the picture at `half` the grid."""
    h, w = grid
    picture = pixels.view(h, w, -1, patch, patch).permute(2, 0, 3, 1, 4).reshape(-1, h * patch, w * patch)
    down = F.adaptive_avg_pool2d(picture, (half[0] * patch, half[1] * patch))
    cut = down.view(-1, half[0], patch, half[1], patch).permute(1, 3, 0, 2, 4)
    return cut.reshape(half[0] * half[1], -1)
