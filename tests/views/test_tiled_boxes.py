"""Boxes in tiles: where the pixels are, and back again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.boxes import FORMATS, BoxFormat, format_boxes, moves_with_size, parse_boxes
from mmdata.rng import generator
from mmdata.types import Media, Origin, Sample, Text
from mmdata.views.anyres import AnyRes
from mmdata.views.augment import Augment, augment
from mmdata.views.qwen import SmartResize
from mmdata.views.tiled_boxes import from_tiles, to_tiles
from mmdata.views.tiles import DynamicTiles, SplitImage

VIEWS: dict[str, Any] = {
    "anyres": AnyRes(size=28, pinpoints=((28, 56), (56, 28), (56, 56), (84, 28), (28, 84)), dtype="uint8"),
    "whole": AnyRes(size=28, pinpoints=((28, 28),), tiling=False, dtype="uint8"),
    "internvl": DynamicTiles(size=28, dtype="uint8"),
    "idefics3": SplitImage(longest_edge=112, size=28, dtype="uint8"),
}
SIDE = st.integers(20, 200)


@pytest.mark.parametrize("name", VIEWS)
@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_a_box_comes_back_from_its_tiles(name: str, data: st.DataObject) -> None:
    height, width = data.draw(SIDE), data.draw(SIDE)
    x0, x1 = sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    y0, y1 = sorted(data.draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    plan = VIEWS[name].plan((height, width))
    parts = to_tiles((x0, y0, x1, y1), plan)
    if x0 == x1 or y0 == y1:
        assert parts == []
        return
    assert {number for number, _ in parts} <= set(range(plan.shape[0]))
    assert from_tiles(parts, plan) == pytest.approx((x0, y0, x1, y1), abs=1e-6)


@pytest.mark.parametrize("name", VIEWS)
def test_tiles_show_the_box_where_it_is_said_to_be(name: str) -> None:
    pixels = np.zeros((90, 150, 3), np.uint8)
    box = (30, 20, 120, 70)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    plan = VIEWS[name].plan(pixels.shape[:2])
    tiles = VIEWS[name].realize(pixels, plan).float().numpy().mean(1)
    parts = dict(to_tiles(box, plan))
    ends = np.percentile(tiles, [0, 100])
    for number, tile in enumerate(tiles):
        rows, columns = np.nonzero(tile > ends.mean())
        if number not in parts:
            assert len(rows) == 0
            continue
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.array(found) - parts[number]).max() <= 1.5, (number, found, parts[number])


def test_patches_are_no_tiles() -> None:
    plan = SmartResize().plan((100, 100))
    with pytest.raises(ValueError, match="moves points to several places"):
        to_tiles((0, 0, 1, 1), plan)


@pytest.mark.parametrize("name", [name for name in FORMATS if not moves_with_size(name)])
@given(seed=st.integers(0, 2**16), data=st.data())
@settings(deadline=None, max_examples=20)
def test_what_texts_say_survives_augmentation_and_tiling(name: BoxFormat, seed: int, data: st.DataObject) -> None:
    """A box that is written, moved with its picture and cut into tiles is, back in the picture's shares, where it was:
    within a step of the format and a pixel of each resize. A point goes with it."""
    height, width = data.draw(st.integers(60, 200)), data.draw(st.integers(60, 200))
    box = (0.2 * width, 0.3 * height, 0.6 * width, 0.8 * height)
    point = "<click>(400,550)</click>"
    text = Text(text=f"{format_boxes([box], (height, width), name)} {point}", role="assistant")
    sample = Sample(
        key="a", parts=(Media(kind="image", height=height, width=width), text), origin=Origin(uri="", row=0)
    )
    rules = Augment(crop=(0.5, 1.0), flip=0.5, scale=(0.5, 1.5), coordinates=name)
    made = augment(sample, rules, generator("test", seed))
    (medium,) = made.media
    assert medium.height and medium.width  # noqa: PT018
    size = (medium.height, medium.width)
    (found,) = [each.box for each in parse_boxes(made.texts[0].text, size, name)]
    left, top, right, bottom = found
    assert -1 <= left < right <= size[1] + 1
    step = {"kosmos2": 1 / 16, "llava": 0.02}.get(name, 0.004) * max(size)
    plan = VIEWS["anyres"].plan(size)
    inside = (max(left, 0.0), max(top, 0.0), min(right, size[1]), min(bottom, size[0]))
    assert from_tiles(to_tiles(inside, plan), plan) == pytest.approx(inside, abs=1e-6)
    x, y = (float(number) for number in made.texts[0].text.partition("<click>(")[2].partition(")")[0].split(","))
    assert left - step <= x / 1000 * size[1] <= right + step, "the point is still in its box"
    assert top - step <= y / 1000 * size[0] <= bottom + step
    middle = ((left + right) / 2, (top + bottom) / 2)
    assert (x / 1000 * size[1], y / 1000 * size[0]) == pytest.approx(middle, abs=2 * step)
