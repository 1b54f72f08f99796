"""AnyRes against transformers: its functions, its processors of both backends, and its models' feature counts."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextModel,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionModel,
    LlavaOnevisionProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.image_processing_utils import get_patch_output_size
from transformers.image_processing_utils import select_best_resolution as reference_best
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from mmdata.errors import DataError, SpecError
from mmdata.types import Media
from mmdata.views import anyres
from mmdata.views.anyres import LLAVA_NEXT, ONEVISION, AnyRes
from tests.dataset_fixture import photograph
from tests.views.tiling import EDGES, SMALL, Edge, noise, pictures, random_sizes, worst

NEXT = AnyRes()
ONE = AnyRes(size=384, pinpoints=ONEVISION, anyres_max=9)
TINY = [(height * 28, width * 28) for height, width in [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]]
TINY_MAX = [(height * 28, width * 28) for height in range(1, 5) for width in range(1, 5)]
SIZES = [edge.size for edge in EDGES] + random_sizes()


@functools.cache
def next_processor() -> Any:
    """The part of LlavaNextProcessor that counts; it needs no tokenizer."""
    processor = LlavaNextProcessor.__new__(LlavaNextProcessor)
    processor.patch_size, processor.num_additional_image_tokens = 14, 0
    processor.image_processor = LlavaNextImageProcessor(image_grid_pinpoints=[list(pair) for pair in LLAVA_NEXT])
    return processor


@functools.cache
def onevision_processor() -> Any:
    processor = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)
    processor.num_image_tokens, processor.vision_aspect_ratio = 729, "anyres_max_9"
    processor.image_processor = LlavaOnevisionImageProcessor()
    return processor


@pytest.mark.parametrize("pinpoints", [LLAVA_NEXT, ONEVISION], ids=["next", "onevision"])
def test_the_best_resolution_and_the_fit_are_the_references(pinpoints: tuple[tuple[int, int], ...]) -> None:
    for size in SIZES:
        best = anyres.select_best_resolution(size, pinpoints)
        assert best == reference_best(size, pinpoints), size
        shaped = np.broadcast_to(np.uint8(0), (3, *size))
        assert anyres.fit_inside(size, best) == get_patch_output_size(shaped, best, "channels_first"), size


def test_onevisions_pinpoints_are_the_class_default() -> None:
    assert [list(pair) for pair in ONEVISION] == LlavaOnevisionImageProcessor().image_grid_pinpoints
    assert [list(pair) for pair in LLAVA_NEXT] == LlavaNextImageProcessor().image_grid_pinpoints


def test_tokens_are_those_of_the_processors() -> None:
    for size in SIZES:
        assert NEXT.plan(size).tokens == next_processor()._get_number_of_features(*size, 336, 336), size
        assert ONE.plan(size).tokens == onevision_processor()._get_number_of_features(*size, 384, 384), size


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: f"{edge.height}x{edge.width}")
def test_hard_sizes(edge: Edge) -> None:
    plan = anyres.plan(edge.size)
    rows, columns = edge.next_best[0] // 336, edge.next_best[1] // 336
    assert anyres.select_best_resolution(edge.size, LLAVA_NEXT) == edge.next_best
    assert (plan.grid, plan.shape, plan.tokens) == (
        (1, rows, columns),
        (edge.next_crops, 3, 336, 336),
        edge.next_tokens,
    )
    plan = anyres.plan(
        Media(kind="image", height=edge.height, width=edge.width), size=384, pinpoints=ONEVISION, anyres_max=9
    )
    assert (plan.shape[0], plan.tokens) == (edge.onevision_crops, edge.onevision_tokens)


def test_a_tie_is_transposed_upstream() -> None:
    """LLaVA's own list of pinpoints holds (width, height); the first of equals is then the other grid."""
    upstream = tuple((width, height) for height, width in LLAVA_NEXT)  # what it holds, read as (height, width)
    transposed = 0
    for size in random_sizes():
        ours = anyres.select_best_resolution(size, LLAVA_NEXT)
        theirs = anyres.select_best_resolution(size, upstream)
        transposed += ours != theirs
        assert ours in (theirs, theirs[::-1])
    assert anyres.select_best_resolution((100, 100), LLAVA_NEXT) == (336, 672)
    assert anyres.select_best_resolution((100, 100), upstream) == (672, 336)
    assert transposed > 100


def test_rounding_to_seven_digits_is_hugging_faces() -> None:
    """47 x 1128 in a grid of 24 x 72 features: 3 rows, which float arithmetic makes a hair less and upstream 2."""
    size = 47, 1128
    assert anyres.select_best_resolution(size, LLAVA_NEXT) == (336, 1008)
    assert int(47 * (72 / 1128)) == 2
    assert anyres.unpadded(size, (24, 72)) == (24 - (24 - 3) // 2 * 2, 72) == (4, 72)


# Models


@functools.cache
def next_model(image_size: int) -> LlavaNextModel:
    torch.manual_seed(0)
    pinpoints = TINY if image_size == 28 else [list(pair) for pair in LLAVA_NEXT]
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1, image_size=image_size,
        patch_size=14, projection_dim=8,
    )  # fmt: skip
    return LlavaNextModel(
        LlavaNextConfig(vision_config=vision, text_config=text(), image_grid_pinpoints=[list(p) for p in pinpoints])
    ).eval()


@functools.cache
def onevision_model(image_size: int) -> LlavaOnevisionModel:
    torch.manual_seed(0)
    pinpoints = TINY_MAX if image_size == 28 else ONEVISION
    vision = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1, image_size=image_size,
        patch_size=14,
    )  # fmt: skip
    return LlavaOnevisionModel(
        LlavaOnevisionConfig(
            vision_config=vision, text_config=text(), image_grid_pinpoints=[list(p) for p in pinpoints]
        )
    ).eval()


def text() -> Qwen2Config:
    return Qwen2Config(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1,
    )  # fmt: skip


@torch.no_grad()
def test_models_make_as_many_features_as_planned() -> None:
    """At tiny tiles through the whole tower."""
    view = AnyRes(size=28, pinpoints=tuple(TINY))
    shrunk = AnyRes(size=28, pinpoints=tuple(TINY_MAX), anyres_max=2)
    alone = AnyRes(size=28, pinpoints=tuple(TINY_MAX), anyres_max=2, tiling=False)
    for size in [edge.size for edge in EDGES[::3]] + random_sizes()[:4]:
        sizes = torch.tensor([size])
        plan = view.plan(size)
        features = next_model(28).get_image_features(torch.ones(1, *plan.shape), sizes, return_dict=True)
        assert [len(one) for one in features.pooler_output] == [plan.tokens], size
        plan = shrunk.plan(size)
        features = onevision_model(28).get_image_features(
            torch.ones(1, *plan.shape), sizes, vision_aspect_ratio="anyres_max_2", return_dict=True
        )
        assert [len(one) for one in features.pooler_output] == [plan.tokens], size
        plans = [alone.plan(size), alone.plan((28, 28))]
        features = onevision_model(28).get_image_features(
            torch.ones(2, *plans[0].shape), torch.tensor([size, (28, 28)]), batch_num_images=torch.tensor([2]),
            return_dict=True,
        )  # fmt: skip
        assert [len(one) for one in features.pooler_output] == [plan.tokens for plan in plans], size


@torch.no_grad()
@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: f"{edge.height}x{edge.width}")
def test_models_unpad_real_grids_to_the_planned_number(edge: Edge) -> None:
    for model, view in ((next_model(336), NEXT), (onevision_model(384), ONE)):
        plan = view.plan(edge.size)
        options = {"vision_feature_select_strategy": "default"} if view is NEXT else {}
        packed, lengths = model.pack_image_features(
            [torch.zeros(plan.shape[0], view.side**2, 1)],
            torch.tensor([edge.size]),
            image_newline=torch.zeros(1),
            **options,
        )
        assert lengths.tolist() == [len(packed[0])] == [plan.tokens]


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_video_of_onevision(frames: int) -> None:
    features = onevision_model(28).get_video_features(torch.ones(1, frames, 3, 28, 28), return_dict=True)
    assert features.pooler_output.shape[1] == anyres.num_video_tokens(frames, side=2)
    assert anyres.num_video_tokens(frames) == 196 * frames + 1


# Pixels


def next_reference(backend: str, size: int = 336, pinpoints: Any = LLAVA_NEXT) -> Any:
    kind = LlavaNextImageProcessor if backend == "torchvision" else LlavaNextImageProcessorPil
    processor = kind(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size},
        image_grid_pinpoints=[list(pair) for pair in pinpoints],
    )  # fmt: skip
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


def onevision_reference(backend: str, size: int = 384, pinpoints: Any = ONEVISION, *, several: bool = False) -> Any:
    kind = LlavaOnevisionImageProcessor if backend == "torchvision" else LlavaOnevisionImageProcessorPil
    processor = kind(size={"height": size, "width": size}, image_grid_pinpoints=[list(pair) for pair in pinpoints])
    if several:
        return lambda image: processor([[image, image]], return_tensors="pt")["pixel_values"][0]
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_photographs_are_equal(backend: Any) -> None:
    for pixels in pictures():
        assert worst(AnyRes(backend=backend), pixels, next_reference(backend)) <= 1e-6
    view = AnyRes(size=384, pinpoints=ONEVISION, anyres_max=9, backend=backend)
    assert worst(view, photograph("chelsea"), onevision_reference(backend)) <= 1e-6
    view = AnyRes(size=384, pinpoints=ONEVISION, anyres_max=9, backend=backend, tiling=False)
    assert worst(view, photograph("rocket"), onevision_reference(backend, several=True)) <= 1e-6


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_hard_sizes_and_hard_edges_are_equal(backend: Any) -> None:
    view = AnyRes(size=28, pinpoints=tuple(TINY), backend=backend)
    shrunk = AnyRes(size=28, pinpoints=tuple(TINY_MAX), anyres_max=2, backend=backend)
    alone = AnyRes(size=28, pinpoints=tuple(TINY_MAX), tiling=False, backend=backend)
    draw = np.random.default_rng(5)
    for height, width in SMALL + draw.integers(1, 200, (40, 2)).tolist():
        pixels = noise(height, width)
        assert worst(view, pixels, next_reference(backend, 28, TINY)) <= 1e-6, (height, width)
        assert worst(shrunk, pixels, onevision_reference(backend, 28, TINY_MAX)) <= 1e-6, (height, width)
        if height * width > 1 and max(height, width) < 1000:  # The reference pads 1 x 4000 to 16 million pixels.
            reference = onevision_reference(backend, 28, TINY_MAX, several=True)
            assert worst(alone, pixels, reference) <= 1e-6, (height, width)


def test_uint8_is_the_same_before_normalising() -> None:
    pixels = photograph("chelsea")
    plan = NEXT.plan(pixels.shape[:2])
    raw = AnyRes(dtype="uint8").realize(pixels, plan)
    assert raw.dtype == torch.uint8
    mean, std = (torch.tensor(value)[:, None, None] * 255 for value in (NEXT.mean, NEXT.std))
    assert torch.equal((raw.float() - mean) / std, NEXT.realize(pixels, plan))
    assert torch.equal(anyres.realize(pixels, plan), NEXT.realize(pixels, plan))


# Properties


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.booleans(), st.sampled_from(["torchvision", "pil"]))
def test_what_is_realised_was_planned(height: int, width: int, tiling: bool, backend: Any) -> None:
    view = AnyRes(
        size=14, patch=7, pinpoints=((14, 28), (28, 14), (42, 42)), anyres_max=1, tiling=tiling, backend=backend
    )
    plan = view.plan((height, width))
    assert tuple(view.realize(noise(height, width), plan).shape) == plan.shape
    assert plan.tokens >= view.side**2


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_any_header_can_be_planned(height: int, width: int) -> None:
    for view in (NEXT, ONE):
        plan = view.plan((height, width))
        assert plan.tokens == anyres.num_tokens(
            (height, width), plan.grid[1:], side=view.side, anyres_max=view.anyres_max
        )
        assert view.side**2 <= plan.tokens <= 9000


def test_what_cannot_be_planned() -> None:
    with pytest.raises(DataError, match="no_facts"):
        NEXT.plan(Media(kind="image", height=10))
    with pytest.raises(DataError, match="aspect_extreme"):
        NEXT.plan((1_000_000, 1))
    with pytest.raises(DataError, match="aspect_extreme"):  # 60,000 x 60,000 pixels when padded
        AnyRes(tiling=False).plan((1, 60_000))
    with pytest.raises(SpecError, match="multiples of 336"):
        AnyRes(pinpoints=((384, 384),))
    with pytest.raises(SpecError, match="missing"):
        AnyRes(pinpoints=())
    with pytest.raises(SpecError, match="does not fit"):
        AnyRes(patch=400)
    with pytest.raises(SpecError, match="leaves no tile"):
        AnyRes(anyres_max=0)


def test_a_description_tells_views_apart() -> None:
    descriptions = [str(view.describe()) for view in (NEXT, ONE, AnyRes(backend="pil"), AnyRes(tiling=False))]
    assert len(set(descriptions)) == 4
    assert AnyRes(pinpoints=[[336, 672], [672, 336]]).pinpoints == ((336, 672), (672, 336))  # type: ignore[arg-type]
