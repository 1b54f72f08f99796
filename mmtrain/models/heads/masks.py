"""Masks on the grid of a picture's tokens: which tokens are a picture, and what polygons cover of it."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmtrain.box_metrics import overlap
from mmtrain.models.heads.located import Place
from mmtrain.rows import borders

FINER = 8
"""Lines of a cell along which polygons are filled."""
SAME = 0.5
"""The least IoU by which a box of a text is one of the sample's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The tokens of the only picture of a segment: the first of them in the rows laid after each other, and how many
    rows of how many they are."""

    first: int
    rows: int
    columns: int

    def of(self, hidden: torch.Tensor) -> torch.Tensor:
        """Their hidden states [rows, columns, width] among [T, width]."""
        return hidden[self.first : self.first + self.rows * self.columns].view(self.rows, self.columns, -1)


def grids_of(body: Any, batch: Mapping[str, Any]) -> dict[int, Grid]:
    """The grid of each segment with exactly one picture, by its number, of a native model's batch."""
    merge, config = body.config.merge, body.config
    if config.vision_config is None or not body.shown(batch):
        return {}
    sides: list[tuple[int, int]] = []
    if batch.get("image_grid_thw") is not None:
        sides = [(h // merge, w // merge) for t, h, w in batch["image_grid_thw"].tolist() for _ in range(t)]
    else:
        patch = config.vision_config.patch_size * merge
        given = (batch.get(name) for name in ("pixel_values", "pixel_values_videos"))
        sides = [
            (each.shape[-2] // patch, each.shape[-1] // patch) for many in given if many is not None for each in many
        ]
    firsts = body.first_tokens(batch).tolist()
    ends = borders(batch)[1:].tolist()
    found: dict[int, list[Grid]] = {}
    for first, (rows, columns) in zip(firsts, sides, strict=True):
        found.setdefault(bisect.bisect_right(ends, first), []).append(Grid(first=first, rows=rows, columns=columns))
    return {segment: grids[0] for segment, grids in found.items() if len(grids) == 1}


def masks_of(
    places: Sequence[Place], grids: Mapping[int, Grid], fields: Sequence[Mapping[str, Any]]
) -> list[np.ndarray | None]:
    """The mask of each box on its picture's grid, float32 [rows, columns], the covered share of each cell; None where
    the sample says none. Which of the sample's `boxes` a box of the text is, is told by their IoU: the text's numbers
    are rounded, and an answer need not tell of all."""
    found: list[np.ndarray | None] = []
    for place in places:
        told, grid = fields[place.segment] if fields else {}, grids.get(place.segment)
        boxes, polygons, size = told.get("boxes"), told.get("polygons"), told.get("size")
        if grid is None or not boxes or not polygons or not size:
            found.append(None)
            continue
        height, width = size
        shares = np.array(boxes, np.float64) / [width, height, width, height]
        shared = [overlap(place.box, tuple(box)) for box in shares.tolist()]
        best = int(np.argmax(shared))
        mine = polygons[best] if shared[best] >= SAME and best < len(polygons) else None
        found.append(filled(mine, (height, width), grid.rows, grid.columns) if mine else None)
    return found


def filled(polygons: Sequence[Sequence[float]], size: tuple[int, int], rows: int, columns: int) -> np.ndarray:
    """What polygons [x, y, x, y, ...] in pixels of a picture of `size` (height, width) cover of each cell of a grid:
    float32 [rows, columns], 0 to 1. Exact along a line, on `FINER` lines a cell: an upright edge is told to the last
    bit, a level one to a sixteenth of a cell. What crosses itself is inside where a line has crossed it an odd number
    of times; where several polygons meet in a cell their shares are added.

    >>> filled([[0, 0, 50, 0, 50, 100, 0, 100]], (100, 100), 1, 4).tolist()
    [[1.0, 1.0, 0.0, 0.0]]
    """
    height, width = size
    lines = (np.arange(rows * FINER) + 0.5) / FINER
    edges = np.arange(columns + 1)
    covered = np.zeros((len(lines), columns))
    for polygon in polygons:
        corners = np.array(polygon, float)[: len(polygon) // 2 * 2].reshape(-1, 2) * (columns / width, rows / height)
        if len(corners) < 3:
            continue
        (x, y), (other_x, other_y) = corners.T[..., None], np.roll(corners, -1, axis=0).T[..., None]
        crosses = (y <= lines) != (other_y <= lines)
        slope = (other_x - x) / np.where(y == other_y, 1, other_y - y)
        crossings = np.sort(np.where(crosses, x + (lines - y) * slope, np.inf), axis=0)
        for number in range(int(crosses.sum(0).max())):
            # Between its odd crossing and the next one a line is inside: the lengths left of each edge, in turns.
            covered += (-1) ** number * np.diff(np.maximum(0, edges - crossings[number][:, None]), axis=1)
    cells: np.ndarray = np.minimum(1, covered.reshape(rows, FINER, columns).mean(1)).astype(np.float32)
    return cells
