"""Sizes and pictures for the views that tile, and what the reference says of the hard sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from mmdata.families._family import View
from mmdata.types import Media
from tests.dataset_fixture import photograph


class Edge(NamedTuple):
    """One hard size, and what running the reference processors on it gave; grids are (rows, columns)."""

    height: int
    width: int
    next_best: tuple[int, int]
    next_crops: int
    next_tokens: int
    onevision_crops: int
    onevision_tokens: int
    internvl_grid: tuple[int, int]
    internvl_crops: int
    idefics3_grid: tuple[int, int]
    smolvlm_grid: tuple[int, int]
    gemma3_pictures: int

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


EDGES = [
    Edge(1, 1, (336, 672), 3, 1176, 2, 1485, (1, 1), 1, (4, 4), (4, 4), 1),
    Edge(1, 4000, (336, 672), 3, 576, 2, 757, (1, 12), 13, (1, 4), (1, 4), 1),
    Edge(4000, 1, (336, 672), 3, 600, 2, 783, (12, 1), 13, (4, 1), (4, 1), 1),
    Edge(2, 3, (336, 672), 3, 1464, 2, 1261, (2, 3), 7, (3, 4), (3, 4), 1),
    Edge(13, 17, (336, 672), 3, 1368, 2, 1317, (3, 4), 13, (4, 4), (4, 4), 1),
    Edge(14, 2000, (336, 1008), 4, 576, 7, 892, (1, 12), 13, (1, 4), (1, 4), 1),
    Edge(27, 41, (336, 672), 3, 1464, 2, 1205, (2, 3), 7, (3, 4), (3, 4), 1),
    Edge(28, 28, (336, 672), 3, 1176, 2, 1485, (1, 1), 1, (4, 4), (4, 4), 1),
    Edge(42, 70, (336, 672), 3, 1560, 2, 1205, (2, 3), 7, (3, 4), (3, 4), 1),
    Edge(56, 56, (336, 672), 3, 1176, 2, 1485, (1, 1), 1, (4, 4), (4, 4), 1),
    Edge(100, 100, (336, 672), 3, 1176, 2, 1485, (1, 1), 1, (4, 4), (4, 4), 1),
    Edge(224, 224, (336, 672), 3, 1176, 2, 1485, (1, 1), 1, (4, 4), (4, 4), 1),
    Edge(336, 336, (336, 672), 3, 1176, 2, 1485, (1, 1), 1, (4, 4), (4, 4), 1),
    Edge(337, 336, (672, 336), 3, 1176, 2, 1485, (1, 1), 1, (4, 4), (4, 4), 1),
    Edge(336, 672, (336, 672), 3, 1752, 3, 2214, (1, 2), 3, (2, 4), (2, 4), 3),
    Edge(333, 999, (336, 1008), 4, 2328, 4, 2943, (1, 3), 4, (2, 4), (2, 4), 4),
    Edge(384, 384, (672, 672), 5, 2928, 2, 1485, (1, 1), 1, (4, 4), (4, 4), 1),
    Edge(448, 448, (672, 672), 5, 2928, 5, 3699, (1, 1), 1, (4, 4), (4, 4), 1),
    Edge(480, 640, (672, 672), 5, 2340, 5, 2929, (3, 4), 13, (3, 4), (3, 4), 3),
    Edge(500, 333, (672, 336), 3, 1476, 3, 1849, (3, 2), 7, (4, 3), (4, 3), 1),
    Edge(600, 1000, (672, 672), 5, 1948, 7, 4665, (2, 3), 7, (3, 4), (3, 4), 3),
    Edge(672, 672, (672, 672), 5, 2928, 5, 3699, (2, 2), 5, (4, 4), (4, 4), 1),
    Edge(672, 1008, (672, 672), 5, 2144, 7, 5157, (2, 3), 7, (3, 4), (3, 4), 3),
    Edge(896, 1344, (672, 672), 5, 2144, 13, 8686, (2, 3), 7, (3, 4), (3, 4), 3),
    Edge(1023, 767, (672, 672), 5, 2352, 7, 4744, (4, 3), 13, (4, 3), (4, 3), 3),
    Edge(1080, 1920, (672, 672), 5, 1948, 16, 7269, (2, 4), 9, (3, 4), (3, 4), 3),
    Edge(2000, 10, (1008, 336), 4, 648, 7, 1053, (12, 1), 13, (4, 1), (4, 1), 1),
    Edge(2010, 10, (1008, 336), 4, 648, 7, 1053, (12, 1), 13, (4, 1), (4, 1), 1),
    Edge(3024, 4032, (672, 672), 5, 2340, 31, 7309, (3, 4), 13, (3, 4), (3, 4), 3),
    Edge(5760, 8640, (672, 672), 5, 2144, 25, 7329, (2, 3), 7, (3, 4), (3, 4), 3),
    Edge(7071, 7071, (672, 672), 5, 2928, 37, 7371, (3, 3), 10, (4, 4), (4, 4), 1),
]


@functools.cache
def random_sizes(number: int = 2500, seed: int = 11) -> list[tuple[int, int]]:
    """Heights and widths: small and large, near each other and far apart, and multiples of what models like."""
    draw = np.random.default_rng(seed)
    large = draw.integers(1, 3000, (number // 2, 2))
    wild = np.exp(draw.uniform(0, np.log(20_000), (number // 4, 2))).astype(int)
    round_ones = draw.integers(1, 12, (number - len(large) - len(wild), 2)) * draw.choice([28, 32, 48, 56, 64, 84], 1)
    return [(int(height), int(width)) for height, width in np.concatenate([large, wild, round_ones])]


def noise(height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]; of nothing but hard edges for even widths, of values of all kinds for odd ones."""
    draw = np.random.default_rng(height * 100_003 + width)
    if width % 2 == 0:
        cells = draw.integers(0, 2, (-(-height // 3), -(-width // 3), 3), np.uint8) * 255
        return np.ascontiguousarray(cells.repeat(3, 0).repeat(3, 1)[:height, :width])
    return draw.integers(0, 256, (height, width, 3), np.uint8)


SMALL = [(1, 1), (1, 4000), (4000, 1), (2, 3), (13, 17), (14, 2000), (27, 41), (2010, 10), (56, 56), (113, 224)]
"""Of which pictures are made: hard sizes of few pixels."""


def pictures() -> list[np.ndarray]:
    """Photographs at their own sizes, one on its side, and a strip of one."""
    tall = np.ascontiguousarray(photograph("rocket").transpose(1, 0, 2))
    return [photograph("chelsea"), tall, np.ascontiguousarray(photograph("coffee")[100:180])]


def worst(view: View, pixels: np.ndarray, reference: Callable[[Image.Image], Any]) -> float:
    """The largest difference between what the view makes and the reference's array, which must have its shape; the
    plan must have promised it."""
    plan = view.plan(Media(kind="image", height=pixels.shape[0], width=pixels.shape[1]))
    ours = view.realize(pixels, plan)
    assert tuple(ours.shape) == plan.shape
    assert plan.size == pixels.shape[:2]
    theirs = torch.as_tensor(np.asarray(reference(Image.fromarray(pixels))))
    assert ours.dtype == theirs.dtype == torch.float32
    assert ours.shape == theirs.shape, (pixels.shape, ours.shape, theirs.shape)
    return float((ours - theirs).abs().max())
