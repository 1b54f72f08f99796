"""The fixed view against transformers' CLIP, SigLIP and LLaVA processors of both backends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaImageProcessor,
    LlavaModel,
    Qwen2Config,
    SiglipImageProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mmdata.errors import DataError, SpecError
from mmdata.types import Media
from mmdata.views import fixed
from mmdata.views._picture import HALF
from mmdata.views.fixed import Fixed
from tests.dataset_fixture import photograph
from tests.views.tiling import noise, random_sizes, worst

draw = np.random.default_rng(7)
SIZES = [tuple(draw.integers(1, 400, 2).tolist()) for _ in range(100)]
ODD = [(1, 1), (1, 90), (90, 1), (56, 56), (56, 57), (57, 56), (55, 56), (224, 224), (336, 504), (3, 200)]
BACKENDS: list[Any] = ["torchvision", "pil"]


def clip(backend: str, size: int, crop: int | None = None) -> Any:
    kind = CLIPImageProcessor if backend == "torchvision" else CLIPImageProcessorPil
    side = crop or size
    processor = kind(size={"shortest_edge": size}, crop_size={"height": side, "width": side})
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


def siglip(backend: str, size: int) -> Any:
    kind = SiglipImageProcessor if backend == "torchvision" else SiglipImageProcessorPil
    processor = kind(size={"height": size, "width": size})
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


def llava(backend: str, size: int) -> Any:
    kind = LlavaImageProcessor if backend == "torchvision" else LlavaImageProcessorPil
    processor = kind(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_pad=True)
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


def squash(size: int, backend: Any) -> Fixed:
    return Fixed(size=size, mode="squash", filter="bicubic", mean=HALF, std=HALF, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [56, 224])
def test_equal_on_random_and_odd_sizes(size: int, backend: Any) -> None:
    view, reference = Fixed(size=size, backend=backend), clip(backend, size)
    for height, width in SIZES[: 60 if size == 56 else 8] + ODD:
        assert worst(view, noise(height, width), reference) <= 1e-6, (height, width)


@pytest.mark.parametrize("backend", BACKENDS)
def test_squashed_and_padded_are_equal_on_random_and_odd_sizes(backend: Any) -> None:
    for height, width in SIZES[:25] + ODD:
        pixels = noise(height, width)
        assert worst(squash(56, backend), pixels, siglip(backend, 56)) <= 1e-6, (height, width)
        padded = Fixed(size=56, mode="pad_square", backend=backend)
        assert worst(padded, pixels, llava(backend, 56)) <= 1e-6, (height, width)
    for height, width in [(1, 4000), (4000, 1)]:
        assert worst(squash(56, backend), noise(height, width), siglip(backend, 56)) <= 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "rocket"])
def test_equal_on_photographs(name: str, backend: Any) -> None:
    pixels = np.ascontiguousarray(photograph(name))
    assert worst(Fixed(backend=backend), pixels, clip(backend, 336)) <= 1e-6
    assert worst(squash(384, backend), pixels, siglip(backend, 384)) <= 1e-6
    assert worst(Fixed(mode="pad_square", backend=backend), pixels, llava(backend, 336)) <= 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("size", "crop"), [(40, 56), (100, 56), (30, 91)])
def test_a_crop_of_another_size_than_the_edge(size: int, crop: int, backend: Any) -> None:
    for height, width in [(80, 81), (50, 300), (301, 50), *ODD]:
        view = Fixed(size=size, crop=crop, backend=backend)
        assert worst(view, noise(height, width), clip(backend, size, crop)) <= 1e-6, (height, width)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("size", "crop"), [(56, 56), (40, 56), (100, 56)])
def test_a_strip_is_equal_without_its_resized_whole(
    size: int, crop: int, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the bound so low that small pictures are made in strips, some lines at a time."""
    monkeypatch.setattr(fixed, "MAX_RESIZED", 20_000)
    view, reference, strips = Fixed(size=size, crop=crop, backend=backend), clip(backend, size, crop), 0
    for height, width in [(1, 90), (90, 1), (3, 200), (200, 3), (17, 171), (171, 17), (20, 22), (25, 24), (600, 1)]:
        assert worst(view, noise(height, width), reference) <= 1e-6, (height, width)
        whole = math.prod(fixed.shortest_edge(height, width, size))
        strips += whole > 20_000 and whole > 2 * height * width
    assert strips >= 4


def test_a_strip_as_towers_take_it() -> None:
    """336 x 1,344,000 pixels, of which 336 x 336 are wanted."""
    plan = Fixed().plan((1, 4000))
    assert tuple(Fixed().realize(noise(1, 4000), plan).shape) == plan.shape == (3, 336, 336)
    assert Fixed().plan((4000, 1)).shape == plan.shape


def test_tokens_are_patches() -> None:
    facts = Media(kind="image", height=480, width=640)
    assert Fixed().plan(facts).tokens == 576
    assert Fixed(size=56).plan(facts).tokens == 16
    assert Fixed(size=384, mode="squash").plan(facts).tokens == 729
    assert Fixed(size=896, mode="squash", pool=4).plan(facts).tokens == 256
    assert Fixed().plan(facts).size == (480, 640)


@torch.no_grad()
def test_llava_makes_as_many_features_as_planned() -> None:
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision = CLIPVisionConfig(**tiny, image_size=336, patch_size=14, projection_dim=8)
    text = Qwen2Config(**tiny, vocab_size=16, num_key_value_heads=1)
    model = LlavaModel(LlavaConfig(vision_config=vision, text_config=text)).eval()
    plan = Fixed().plan((100, 300))
    (features,) = model.get_image_features(torch.ones(1, *plan.shape), return_dict=True).pooler_output
    assert len(features) == plan.tokens


def test_uint8_is_the_same_before_normalising() -> None:
    pixels, view = photograph("chelsea"), Fixed(mode="pad_square", dtype="uint8")
    raw = view.realize(pixels, view.plan(pixels.shape[:2]))
    mean, std = (torch.tensor(value)[:, None, None] * 255 for value in (view.mean, view.std))
    whole = Fixed(mode="pad_square")
    assert raw.dtype == torch.uint8
    assert torch.equal((raw.float() - mean) / std, whole.realize(pixels, whole.plan(pixels.shape[:2])))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300), st.sampled_from(["shortest_crop", "squash", "pad_square"]),
    st.integers(14, 40), st.sampled_from(BACKENDS),
)  # fmt: skip
def test_what_is_realised_was_planned(height: int, width: int, mode: Any, crop: int, backend: Any) -> None:
    view = Fixed(size=20, crop=crop, mode=mode, backend=backend)
    plan = view.plan((height, width))
    assert tuple(view.realize(noise(height, width), plan).shape) == plan.shape


def test_large_headers_are_planned_alone() -> None:
    for height, width in [(9000, 12_000), (30_000, 30_000), *random_sizes()[:200]]:
        for mode in ("shortest_crop", "squash", "pad_square"):
            assert Fixed(mode=mode).plan((height, width)).shape == (3, 336, 336)  # type: ignore[arg-type]


def test_what_cannot_be_planned() -> None:
    with pytest.raises(DataError, match="no_facts"):
        Fixed().plan(Media(kind="image"))
    for mode, size in [("shortest_crop", (65_535, 3)), ("pad_square", (1, 50_000)), ("squash", (1_000_000, 1))]:
        with pytest.raises(DataError, match="aspect_extreme"):
            Fixed(mode=mode).plan(size)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="leave no patch"):
        Fixed(size=10)
