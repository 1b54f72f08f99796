"""The fixed view against transformers' CLIPImageProcessor (torchvision backend)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor

from mmdata.errors import DataError, SpecError
from mmdata.types import Flip, Media, Pad
from mmdata.views.fixed import Fixed
from mmdata.views.pixels import apply
from tests.dataset_fixture import photograph

draw = np.random.default_rng(7)
SIZES = [tuple(draw.integers(1, 400, 2).tolist()) for _ in range(150)]
ODD = [(1, 1), (1, 90), (90, 1), (56, 56), (56, 57), (57, 56), (55, 56), (224, 224), (336, 504), (3, 200)]


def reference(pixels: np.ndarray, **options: Any) -> torch.Tensor:
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    return CLIPImageProcessor(**options)(tensor, return_tensors="pt", input_data_format="channels_first")[
        "pixel_values"
    ][0]


def ours(pixels: np.ndarray, view: Fixed) -> torch.Tensor:
    plan = view.plan(Media(kind="image", height=pixels.shape[0], width=pixels.shape[1]))
    result = view.realize(pixels, plan)
    assert tuple(result.shape) == plan.shape
    assert result.dtype == torch.float32
    return result


@pytest.mark.parametrize("size", [56, 224])
def test_equal_on_random_and_odd_sizes(size: int) -> None:
    view = Fixed(size=size)
    options = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    for height, width in SIZES + ODD:
        pixels = draw.integers(0, 256, (height, width, 3), np.uint8)
        worst = (ours(pixels, view) - reference(pixels, **options)).abs().max()
        assert worst <= 1e-6, (height, width, worst)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_equal_on_photographs(name: str) -> None:
    pixels = np.ascontiguousarray(photograph(name))
    options = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    assert (ours(pixels, Fixed()) - reference(pixels, **options)).abs().max() <= 1e-6


@pytest.mark.parametrize(("size", "crop"), [(40, 56), (100, 56), (30, 91)])
def test_a_crop_of_another_size_than_the_edge(size: int, crop: int) -> None:
    options = {"size": {"shortest_edge": size}, "crop_size": {"height": crop, "width": crop}}
    for height, width in [(80, 81), (50, 300), (301, 50), *ODD]:
        pixels = draw.integers(0, 256, (height, width, 3), np.uint8)
        worst = (ours(pixels, Fixed(size=size, crop=crop)) - reference(pixels, **options)).abs().max()
        assert worst <= 1e-6, (height, width, worst)


def test_tokens_are_patches() -> None:
    facts = Media(kind="image", height=480, width=640)
    assert Fixed().plan(facts).tokens == 576
    assert Fixed(size=56).plan(facts).tokens == 16


def test_what_cannot_be_planned() -> None:
    with pytest.raises(DataError, match="no_facts"):
        Fixed().plan(Media(kind="image"))
    with pytest.raises(DataError, match="aspect_extreme"):
        Fixed().plan(Media(kind="image", height=1, width=50_000))
    with pytest.raises(SpecError, match="leave no patch"):
        Fixed(size=10)


def test_other_operations() -> None:
    pixels = draw.integers(0, 256, (5, 4, 3), np.uint8)
    padded = apply(pixels, [Pad(1, 2, 0, 3, (7, 8, 9))])
    assert padded.shape == (3, 6, 9)
    assert padded[:, 0, 0].tolist() == [7, 8, 9]
    assert np.array_equal(padded[:, 1:, 2:6].permute(1, 2, 0).numpy(), pixels)
    assert np.array_equal(apply(pixels, [Flip()]).permute(1, 2, 0).numpy(), pixels[:, ::-1])
