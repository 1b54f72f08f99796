"""Boxes in the tiles that a view cuts a picture into, and from the tiles back to the picture."""

from __future__ import annotations

from collections.abc import Sequence

from mmdata.types import Fork, MediaPlan, Normalise, PixelOp, Standardise, Tile
from mmdata.views.geometry import Box, Move, movement

Part = tuple[int, Box]
"""The number of a tile, in the order of the view, and what of a box lies in it, in the tile's pixels."""


def to_tiles(box: Box, plan: MediaPlan) -> list[Part]:
    """Where a box of a picture (pixels) lies in the tiles of a plan; tiles that show none of it are left out. A view
    that also shows the whole picture (AnyRes, InternVL's thumbnail) has it there too. Raises ValueError for a view that
    cuts pictures into patches, not tiles.

    >>> from mmdata.views.anyres import AnyRes
    >>> to_tiles((0, 0, 10, 20), AnyRes().plan((672, 672)))[:2]
    [(0, (0.0, 0.0, 5.0, 10.0)), (1, (0.0, 0.0, 10.0, 20.0))]
    """
    found = []
    for number, (move, left, top, right, bottom) in enumerate(_tiles(plan)):
        x0, y0, x1, y1 = move.box(box)
        part = (max(x0, left), max(y0, top), min(x1, right), min(y1, bottom))
        if part[0] < part[2] and part[1] < part[3]:
            found.append((number, (part[0] - left, part[1] - top, part[2] - left, part[3] - top)))
    return found


def from_tiles(parts: Sequence[Part], plan: MediaPlan) -> Box:
    """The smallest box of the picture around what lies in tiles, in pixels: of `to_tiles` the box, as far as it lies in
    the picture."""
    tiles = list(_tiles(plan))
    back = []
    for number, (x0, y0, x1, y1) in parts:
        move, left, top, _, _ = tiles[number]
        xs = [(x + left - move.shift_x) / move.scale_x for x in (x0, x1)]
        ys = [(y + top - move.shift_y) / move.scale_y for y in (y0, y1)]
        back.append((min(xs), min(ys), max(xs), max(ys)))
    if not back:
        raise ValueError("no tile shows anything of the box")
    x0s, y0s, x1s, y1s = zip(*back, strict=True)
    return min(x0s), min(y0s), max(x1s), max(y1s)


def _tiles(plan: MediaPlan) -> list[tuple[Move, float, float, float, float]]:
    """Of each tile, the move from the picture to the canvas that it is cut from, and its edges there."""
    assert plan.size is not None, plan
    return _walked(plan.size, (), [op for op in plan.ops if not isinstance(op, Normalise | Standardise)])


def _walked(
    size: tuple[int, int], before: tuple[PixelOp, ...], ops: Sequence[object]
) -> list[tuple[Move, float, float, float, float]]:
    done = list(before)
    for at, op in enumerate(ops):
        if isinstance(op, Fork):
            if at + 1 < len(ops):
                raise ValueError(f"{ops[at + 1]} after {op}: whose tiles are they?")
            return [tile for branch in op.branches for tile in _walked(size, tuple(done), branch)]
        if isinstance(op, Tile):
            move = movement(size, done)
            height, width = move.after[0] / op.rows, move.after[1] / op.columns
            return [
                (move, column * width, row * height, (column + 1) * width, (row + 1) * height)
                for row in range(op.rows)
                for column in range(op.columns)
            ]
        done.append(op)  # type: ignore[arg-type]
    move = movement(size, done)
    return [(move, 0.0, 0.0, float(move.after[1]), float(move.after[0]))]
