"""The models make as many features of a view's arrays as its plan counted tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmdata.views import navit
from mmdata.views._picture import HALF
from tests.views import tiny_models
from tests.views.tiling import noise

SIZES = [(1, 1), (37, 91), (200, 112), (300, 17)]


def realized(view, height, width):
    plan = view.plan((height, width))
    return plan, view.realize(noise(height, width), plan)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_features_of_qwen_images(name, size):
    view = navit.SmartResize()
    if name == "qwen3_vl":
        view = navit.SmartResize(patch=16, min_pixels=4096, mean=HALF, std=HALF)
    plan, rows = realized(view, *size)
    with torch.no_grad():
        features = getattr(tiny_models, name)().get_image_features(rows, torch.tensor([plan.grid])).pooler_output
    assert [len(image) for image in features] == [plan.tokens]


@pytest.mark.parametrize("frames", [2, 5])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_features_of_qwen_videos(name, frames):
    geometry = navit.VideoPatches(min_pixels=3136)
    if name == "qwen3_vl":
        geometry = navit.VideoPatches(variant="qwen3_vl", patch=16)
    plan = geometry.plan(frames, 61, 97)
    from mmdata.views.pixels import apply

    pixels = np.stack([noise(61, 97).transpose(2, 0, 1)] * frames)
    with torch.no_grad():
        features = (
            getattr(tiny_models, name)()
            .get_video_features(apply(pixels, plan.ops), torch.tensor([plan.grid]))
            .pooler_output
        )
    assert [len(video) for video in features] == [plan.tokens]


@pytest.mark.parametrize("size", SIZES)
def test_features_of_naflex(size):
    plan, rows = realized(navit.NaFlex(budget=64), *size)
    _, tall, wide = plan.grid
    mask = (torch.arange(64) < tall * wide).to(torch.int32)
    model = tiny_models.siglip2()
    with torch.no_grad():
        features = model(rows[None], mask[None], torch.tensor([[tall, wide]])).last_hidden_state
        # The rows of zeros change nothing, so a tower that takes packed patches may go without them.
        bare, bare_rows = realized(navit.NaFlex(budget=64, pad=False), *size)
        alone = model(bare_rows[None], torch.ones(1, len(bare_rows)), torch.tensor([[tall, wide]])).last_hidden_state
    assert features.shape[1] == plan.tokens == 64
    assert alone.shape[1] == bare.tokens == tall * wide
    assert torch.allclose(features[:, : tall * wide], alone, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_features_of_pix2struct(size):
    plan, rows = realized(navit.Pix2Struct(budget=96), *size)
    mask = torch.arange(96) < plan.grid[1] * plan.grid[2]
    with torch.no_grad():
        features = tiny_models.pix2struct()(rows[None], mask[None].float()).last_hidden_state
    assert features.shape[1] == plan.tokens == 96


@pytest.mark.parametrize("size", [(1, 1), (37, 91), (200, 112), (300, 17), (480, 640)])
def test_features_of_pixtral(size):
    plan, picture = realized(navit.LongestEdge(size=128), *size)
    sizes = torch.tensor([plan.shape[1:]])
    with torch.no_grad():
        features = tiny_models.pixtral().model.get_image_features(picture[None], image_sizes=sizes).pooler_output
    assert sum(len(image) for image in features) == plan.tokens
