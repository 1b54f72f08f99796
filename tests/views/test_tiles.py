"""The tiling views against transformers: its functions, its processors of both backends, its models' feature counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma3Config,
    Gemma3ImageProcessor,
    Gemma3Model,
    Gemma3TextConfig,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Model,
    InternVLConfig,
    InternVLModel,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMModel,
)
from transformers.image_utils import SizeDict
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_idefics3 import get_resize_output_image_size
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from mmdata.errors import DataError, SpecError
from mmdata.types import Crop, Media
from mmdata.views import tiles
from mmdata.views.tiles import CeilTiles, DynamicTiles, PanAndScan, SplitImage, Tiled
from tests.dataset_fixture import photograph
from tests.views.tiling import EDGES, SMALL, Edge, noise, pictures, random_sizes, worst

SIZES = [edge.size for edge in EDGES] + random_sizes()
IDEFICS3 = SplitImage()
SMOL_2B = SplitImage(size=384, pool=3, longest_edge=1536)
SMOL_256M = SplitImage(size=512, patch=16, pool=4, longest_edge=2048)

# Integers


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: f"{edge.height}x{edge.width}")
def test_hard_sizes(edge: Edge) -> None:
    plan = DynamicTiles().plan(Media(kind="image", height=edge.height, width=edge.width))
    assert (plan.grid, plan.shape) == ((1, *edge.internvl_grid), (edge.internvl_crops, 3, 448, 448))
    assert plan.tokens == 256 * edge.internvl_crops
    for view, grid, tokens in ((IDEFICS3, edge.idefics3_grid, 169), (SMOL_256M, edge.smolvlm_grid, 64)):
        plan = view.plan(edge.size)
        assert plan.grid == (1, *grid)
        assert plan.tokens == (math.prod(grid) + 1) * tokens == plan.shape[0] * view.tokens_per_tile
    plan = PanAndScan().plan(edge.size)
    assert (plan.shape, plan.tokens) == ((edge.gemma3_pictures, 3, 896, 896), 256 * edge.gemma3_pictures)


@pytest.mark.parametrize(("least", "most"), [(1, 12), (1, 6), (2, 5), (7, 7), (1, 1), (1, 40)])
def test_dynamic_tiles_are_the_references(least: int, most: int) -> None:
    for height, width in SIZES:
        ours = tiles.dynamic_tiles(height, width, min_tiles=least, max_tiles=most)
        columns, rows = get_optimal_tiled_canvas((height, width), (448, 448), least, most)
        assert ours == (rows, columns), (height, width)


class Cutter(Idefics3ImageProcessor):
    """The reference's three sizes and its cut, over pictures without pixels."""

    def cut(self, height: int, width: int, size: int, longest: int) -> tuple[Any, Any, int, int]:
        image = torch.empty(1, 3, height, width, dtype=torch.uint8, device="meta")
        scaled = self.resize(image, SizeDict(longest_edge=longest))
        fitted = self.resize_for_vision_encoder(scaled, size)
        frames, (rows,), (columns,) = self.split_images(fitted, {"longest_edge": size})
        assert frames.shape[1] == rows * columns + 1
        return tuple(scaled.shape[2:]), tuple(fitted.shape[2:]), rows, columns

    def resize(self, image: torch.Tensor, size: Any, resample: Any = None, **kwargs: Any) -> torch.Tensor:
        new = get_resize_output_image_size(image, size.longest_edge) if size.longest_edge else (size.height, size.width)
        return image.new_empty(*image.shape[:2], *new)


@pytest.mark.parametrize(
    ("size", "longest"), [(364, 1456), (384, 1536), (512, 2048), (364, 1000), (100, 100), (64, 50), (512, 9000)]
)
def test_splits_are_the_references(size: int, longest: int) -> None:
    cutter = Cutter()
    for height, width in SIZES[:: 1 if longest in (1000, 1456) else 5]:
        split = tiles.split_image(height, width, size=size, longest_edge=longest)
        assert split == cutter.cut(height, width, size, longest), (height, width)


def test_the_references_helper_is_wrong_where_tiles_do_not_divide_the_longest_edge() -> None:
    processor = Idefics3ImageProcessor()
    options = {"size": {"longest_edge": 1000}, "max_image_size": {"longest_edge": 364}}
    wrong = 0
    for height, width in random_sizes():
        split = tiles.split_image(height, width, size=364, longest_edge=1000)
        _, rows, columns = processor.get_number_of_image_patches(height, width, options)
        wrong += (split.rows, split.columns) != (rows, columns)
        exact = tiles.split_image(height, width)  # 1456 = 4 * 364: no difference
        assert processor.get_number_of_image_patches(height, width)[1:] == (exact.rows, exact.columns)
    assert 0.02 < wrong / len(random_sizes()) < 0.2
    # 735 x 1000: the long edge goes up to 1092, the other with it to 803, which is three tiles.
    assert tiles.split_image(735, 1000, longest_edge=1000)[2:] == (3, 3)
    image = np.zeros((735, 1000, 3), np.uint8)
    made = processor(image, return_row_col_info=True, return_tensors="pt", **options)
    assert (made["rows"], made["cols"]) == ([[3]], [[3]])


def test_pan_and_scan_is_the_references() -> None:
    processor = Gemma3ImageProcessor()
    cut = 0
    for height, width in SIZES:
        # Each pixel says its row, or its column, without memory of its own.
        rows, columns = torch.arange(height)[:, None].expand(height, width), torch.arange(width).expand(height, width)
        for rule in ((256, 4, 1.2), (100, 8, 1.5), (500, 3, 1.0)):
            theirs = [
                Crop(int(top[0, 0]), int(left[0, 0]), *top.shape)
                for top, left in zip(
                    *(processor.pan_and_scan_batched(of, *rule) for of in (rows, columns)), strict=True
                )
            ]
            ours = tiles.pan_and_scan(height, width, min_crop=rule[0], max_crops=rule[1], min_ratio=rule[2])
            assert list(ours) == theirs, (height, width)
            cut += len(ours)
    assert cut > 1000


def test_ceil_tiles() -> None:
    assert tiles.ceil_tiles(896, 1344) == (3, 4)
    assert CeilTiles().plan((896, 1344)).tokens == 6912
    assert tiles.ceil_tiles(672, 1008) == (2, 3)
    for height, width in random_sizes()[:300]:
        rows, columns = tiles.ceil_tiles(height, width)
        assert (rows - 1) * 336 < height <= rows * 336
        assert (columns - 1) * 336 < width <= columns * 336


# Pixels


def internvl(backend: str, size: int = 448, least: int = 1, most: int = 12) -> Any:
    kind = GotOcr2ImageProcessor if backend == "torchvision" else GotOcr2ImageProcessorPil
    processor = kind(
        size={"height": size, "width": size}, crop_to_patches=True, min_patches=least, max_patches=most,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    return lambda image: processor(image, return_tensors="pt")["pixel_values"]


def idefics3(backend: str, size: int = 364, longest: int = 1456, *, smol: bool = False, splitting: bool = True) -> Any:
    kinds = (
        (SmolVLMImageProcessor, SmolVLMImageProcessorPil)
        if smol
        else (Idefics3ImageProcessor, Idefics3ImageProcessorPil)
    )
    processor = kinds[backend == "pil"](
        size={"longest_edge": longest}, max_image_size={"longest_edge": size}, do_image_splitting=splitting
    )

    def reference(image: Any) -> Any:
        made = processor([[image]], return_tensors="pt")
        assert made["pixel_attention_mask"].all()
        return made["pixel_values"][0]

    return reference


def gemma3(backend: str, size: int = 896, least: int = 256, *, crops: bool = True) -> Any:
    kind = Gemma3ImageProcessor if backend == "torchvision" else Gemma3ImageProcessorPil
    processor = kind(
        size={"height": size, "width": size}, do_pan_and_scan=crops, pan_and_scan_min_crop_size=least,
        pan_and_scan_max_num_crops=4, pan_and_scan_min_ratio_to_activate=1.2,
    )  # fmt: skip
    return lambda image: processor(image, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_photographs_are_equal(backend: Any) -> None:
    chelsea, tall, strip = pictures()
    assert worst(DynamicTiles(backend=backend), chelsea, internvl(backend)) <= 1e-6
    assert worst(DynamicTiles(backend=backend, max_tiles=6), strip, internvl(backend, most=6)) <= 1e-6
    assert worst(SplitImage(backend=backend), tall, idefics3(backend)) <= 1e-6
    small = SplitImage(size=512, patch=16, pool=4, longest_edge=2048, backend=backend)
    assert worst(small, strip, idefics3(backend, 512, 2048, smol=True)) <= 1e-6
    assert worst(PanAndScan(backend=backend), tall, gemma3(backend)) <= 1e-6
    assert worst(PanAndScan(backend=backend), photograph("astronaut"), gemma3(backend)) <= 1e-6


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_hard_sizes_and_hard_edges_are_equal(backend: Any) -> None:
    draw = np.random.default_rng(6)
    cases: list[tuple[Tiled, Any]] = [
        (DynamicTiles(size=28, backend=backend), internvl(backend, 28)),
        (DynamicTiles(size=32, patch=16, min_tiles=2, max_tiles=7, backend=backend), internvl(backend, 32, 2, 7)),
        (SplitImage(size=28, longest_edge=112, backend=backend), idefics3(backend, 28, 112)),
        (SplitImage(size=28, longest_edge=100, backend=backend), idefics3(backend, 28, 100, smol=True)),
        (SplitImage(size=56, longest_edge=50, backend=backend), idefics3(backend, 56, 50)),
        (
            SplitImage(size=28, longest_edge=99, splitting=False, backend=backend),
            idefics3(backend, 28, 99, splitting=False),
        ),
        (PanAndScan(size=28, pool=2, min_crop=20, backend=backend), gemma3(backend, 28, 20)),
        (PanAndScan(size=28, pool=2, crops=False, backend=backend), gemma3(backend, 28, crops=False)),
    ]
    for height, width in SMALL + draw.integers(1, 200, (16, 2)).tolist():
        pixels = noise(height, width)
        for view, reference in cases:
            assert worst(view, pixels, reference) <= 1e-6, (height, width, view)


def test_square_tiles_hold_the_picture_and_black() -> None:
    pixels = noise(50, 101)
    view = CeilTiles(size=28, dtype="uint8")
    made = view.realize(pixels, view.plan((50, 101)))
    whole = made.reshape(2, 4, 3, 28, 28).permute(0, 3, 1, 4, 2).reshape(56, 112, 3).numpy()
    assert np.array_equal(whole[:50, :101], pixels)
    assert not whole[50:].any()
    assert not whole[:, 101:].any()


# Models


def text() -> Any:
    options = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return options | {"num_attention_heads": 1, "num_key_value_heads": 1}


TOWER: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


@torch.no_grad()
def features(model: Any, pixels: torch.Tensor) -> int:
    made = model.eval().get_image_features(pixels, return_dict=True).pooler_output
    return sum(one.shape[:-1].numel() for one in made)


@pytest.mark.parametrize("size", [56, 448])
def test_internvl_makes_as_many_features_as_planned(size: int) -> None:
    vision = InternVLVisionConfig(**TOWER, image_size=size, patch_size=14)
    model = InternVLModel(InternVLConfig(vision_config=vision, text_config=Qwen2Config(**text())))
    view = DynamicTiles(size=size)
    for height, width in [(1, 1), (60, 61), (100, 40)] if size == 56 else [(1, 1), (300, 600)]:
        plan = view.plan((height, width))
        assert features(model, torch.ones(plan.shape)) == plan.tokens


@pytest.mark.parametrize("view", [IDEFICS3, SMOL_2B, SMOL_256M, SplitImage(size=56, longest_edge=200)])
def test_idefics3_and_smolvlm_make_as_many_features_as_planned(view: SplitImage) -> None:
    vision = {**TOWER, "image_size": view.size, "patch_size": view.patch}
    config, kind = (Idefics3Config, Idefics3Model) if view.pool == 2 else (SmolVLMConfig, SmolVLMModel)
    model = kind(config(vision_config=vision, text_config=LlamaConfig(**text()), scale_factor=view.pool))
    for height, width in [(1, 4000), (200, 300)] if view.size == 56 else [(1, 4000)]:
        plan = view.plan((height, width))
        assert features(model, torch.ones(1, *plan.shape)) == plan.tokens


@pytest.mark.parametrize("size", [896, 112])
def test_gemma3_makes_as_many_features_as_planned(size: int) -> None:
    view = PanAndScan(size=size, min_crop=100)
    vision = SiglipVisionConfig(**TOWER, image_size=size, patch_size=14)
    language = Gemma3TextConfig(**text(), head_dim=8)
    model = Gemma3Model(
        Gemma3Config(vision_config=vision, text_config=language, mm_tokens_per_image=view.tokens_per_tile)
    )
    for height, width in [(10, 10)] if size == 896 else [(10, 10), (100, 400), (500, 200)]:
        plan = view.plan((height, width))
        assert features(model, torch.ones(plan.shape)) == plan.tokens


# Properties

VIEWS = [
    DynamicTiles(size=14, patch=7, max_tiles=5),
    DynamicTiles(size=14, patch=7, max_tiles=5, thumbnail=False, backend="pil"),
    SplitImage(size=14, patch=7, longest_edge=40),
    SplitImage(size=14, patch=7, longest_edge=40, backend="pil", dtype="uint8"),
    PanAndScan(size=14, patch=7, pool=1, min_crop=5),
    PanAndScan(size=14, patch=7, pool=1, min_crop=1, max_crops=9, dtype="uint8"),
    CeilTiles(size=14, patch=7),
]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_what_is_realised_was_planned(height: int, width: int) -> None:
    for view in VIEWS:
        plan = view.plan((height, width))
        made = view.realize(noise(height, width), plan)
        assert tuple(made.shape) == plan.shape
        assert made.dtype == getattr(torch, view.dtype)
        assert plan.tokens == plan.shape[0] * view.tokens_per_tile


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_any_header_can_be_planned(height: int, width: int) -> None:
    assert 1 <= DynamicTiles().plan((height, width)).shape[0] <= 13
    assert IDEFICS3.plan((height, width)).shape[0] <= 17
    assert PanAndScan().plan((height, width)).shape[0] <= 5


def test_where_pan_and_scan_would_cut_nothing_there_is_no_cut() -> None:
    """Four cuts of ceil(5 / 4) = 2 pixels: the fourth would begin past the edge, where the reference fails."""
    assert [(crop.left, crop.width) for crop in tiles.pan_and_scan(1, 5, min_crop=1)] == [(0, 2), (2, 2), (4, 1)]
    with pytest.raises(RuntimeError, match="input of size 0"):
        gemma3("torchvision", 14, 1)(torch.zeros(3, 1, 5, dtype=torch.uint8))
    assert tiles.pan_and_scan(1, 5, min_crop=1)[2] == Crop(0, 4, 1, 1)


def test_what_cannot_be_planned() -> None:
    for view in VIEWS:
        with pytest.raises(DataError, match="no_facts"):
            view.plan(Media(kind="image", width=10))
    with pytest.raises(DataError, match="aspect_extreme"):
        DynamicTiles().plan((1_000_000, 1))
    with pytest.raises(DataError, match="aspect_extreme"):
        CeilTiles().plan((1, 1_000_000))
    for wrong in ({"size": 20}, {"patch": 0}, {"pool": 0}):
        with pytest.raises(SpecError, match="holds no patch"):
            DynamicTiles(**wrong)
    with pytest.raises(SpecError, match="no grid"):
        DynamicTiles(min_tiles=5, max_tiles=4)
    with pytest.raises(SpecError, match="no picture"):
        SplitImage(longest_edge=0)
    with pytest.raises(SpecError, match="no crop"):
        PanAndScan(max_crops=0)


def test_a_description_tells_views_apart() -> None:
    assert len({str(view.describe()) for view in [*VIEWS, IDEFICS3, SMOL_2B, SMOL_256M]}) == len(VIEWS) + 3
