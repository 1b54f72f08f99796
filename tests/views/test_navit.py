"""The sizes of native-resolution views are those of the installed processors, and their plans cost nothing."""

from __future__ import annotations

import math
import timeit

import numpy as np
import pytest
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor
from transformers.models.pixtral.image_processing_pixtral import get_resize_output_image_size
from transformers.models.qwen2_vl import image_processing_qwen2_vl, video_processing_qwen2_vl
from transformers.models.qwen3_vl import video_processing_qwen3_vl
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches
from transformers.video_utils import VideoMetadata

from mmdata.errors import DataError, SpecError
from mmdata.types import Media, Patchify, Resize
from mmdata.views import navit
from tests.views.tiling import random_sizes

QWEN3 = {"patch": 16, "min_pixels": 65_536, "max_pixels": 16_777_216}

# (height, width): size and tokens by Qwen2-VL, by Qwen3-VL (None: refused), patches by NaFlex-256, by Pix2Struct-2048.
EDGES = {
    (1, 1): ((56, 56, 4), (256, 256, 64), (7, 7), (45, 45)),
    (1, 4000): (None, None, (1, 256), (1, 2048)),
    (4000, 1): (None, None, (256, 1), (2048, 1)),
    (2, 3): ((56, 84, 6), (224, 320, 70), (13, 19), (36, 55)),
    (13, 17): ((56, 84, 6), (224, 320, 70), (14, 18), (39, 51)),
    (14, 2000): ((28, 672, 24), (32, 3072, 96), (1, 143), (3, 540)),
    (27, 41): ((56, 84, 6), (224, 320, 70), (13, 19), (36, 55)),
    (28, 28): ((56, 56, 4), (256, 256, 64), (16, 16), (45, 45)),
    (42, 70): ((56, 56, 4), (224, 352, 77), (12, 20), (35, 58)),
    (56, 56): ((56, 56, 4), (256, 256, 64), (16, 16), (45, 45)),
    (100, 100): ((112, 112, 16), (256, 256, 64), (16, 16), (45, 45)),
    (224, 224): ((224, 224, 64), (256, 256, 64), (16, 16), (45, 45)),
    (336, 336): ((336, 336, 144), (320, 320, 100), (16, 16), (45, 45)),
    (337, 336): ((336, 336, 144), (352, 320, 110), (16, 16), (45, 45)),
    (336, 672): ((336, 672, 288), (320, 672, 210), (11, 22), (32, 64)),
    (333, 999): ((336, 1008, 432), (320, 992, 310), (9, 27), (26, 78)),
    (384, 384): ((392, 392, 196), (384, 384, 144), (16, 16), (45, 45)),
    (448, 448): ((448, 448, 256), (448, 448, 196), (16, 16), (45, 45)),
    (480, 640): ((476, 644, 391), (480, 640, 300), (14, 18), (39, 52)),
    (500, 333): ((504, 336, 216), (512, 320, 160), (19, 13), (55, 36)),
    (600, 1000): ((588, 1008, 756), (608, 992, 589), (12, 20), (35, 58)),
    (672, 672): ((672, 672, 576), (672, 672, 441), (16, 16), (45, 45)),
    (672, 1008): ((672, 1008, 864), (672, 1024, 672), (13, 19), (36, 55)),
    (896, 1344): ((896, 1344, 1536), (896, 1344, 1176), (13, 19), (36, 55)),
    (1023, 767): ((1036, 756, 999), (1024, 768, 768), (18, 14), (52, 39)),
    (1080, 1920): ((1092, 1932, 2691), (1088, 1920, 2040), (12, 21), (33, 60)),
    (2000, 10): ((812, 28, 29), (3648, 32, 114), (200, 1), (640, 3)),
    (2010, 10): (None, None, (201, 1), (641, 3)),
    (3024, 4032): ((3024, 4032, 15552), (3008, 4032, 11844), (14, 18), (39, 52)),
    (5760, 8640): ((2912, 4368, 16224), (3328, 4992, 16224), (13, 19), (36, 55)),
    (7071, 7071): ((3584, 3584, 16384), (4096, 4096, 16384), (16, 16), (45, 45)),
}


def image(height: int, width: int) -> Media:
    return Media(kind="image", height=height, width=width)


def or_refused(size, *args, **kwargs):
    """What a function answers, or "refused" where it finds the shape extreme."""
    try:
        return tuple(size(*args, **kwargs))
    except DataError as error:
        return "refused" if error.reason in ("aspect_extreme", "too_few_frames") else error.reason
    except (ValueError, RuntimeError):
        return "refused"


@pytest.mark.parametrize("size", EDGES)
def test_edge_cases(size):
    for view, (expected, *_) in [(navit.SmartResize(), EDGES[size]), (navit.SmartResize(**QWEN3), EDGES[size][1:])]:
        if expected is None:
            with pytest.raises(DataError, match="aspect_extreme"):
                view.plan(image(*size))
            continue
        plan = view.plan(image(*size))
        resize = plan.ops[0]
        assert isinstance(resize, Resize)
        assert (resize.height, resize.width, plan.tokens) == expected
        assert plan.grid == (1, resize.height // view.patch, resize.width // view.patch)
        assert plan.shape == (4 * plan.tokens, 3 * 2 * view.patch**2)
    naflex = navit.NaFlex().plan(image(*size))
    assert (naflex.grid, naflex.tokens, naflex.shape) == ((1, *EDGES[size][2]), 256, (256, 768))
    assert navit.naflex_size(*size) == tuple(16 * side for side in EDGES[size][2])
    pix2struct = navit.Pix2Struct().plan(image(*size))
    assert (pix2struct.grid, pix2struct.tokens, pix2struct.shape) == ((1, *EDGES[size][3]), 2048, (2048, 770))
    assert navit.pix2struct_grid(*size) == EDGES[size][3]


@pytest.mark.parametrize(
    ("factor", "low", "high"),
    [(28, 3136, 12_845_056), (28, 3136, 1_003_520), (32, 65_536, 16_777_216), (28, 256 * 784, 1280 * 784)],
)
def test_smart_resize_on_random_sizes(factor, low, high):
    reference = image_processing_qwen2_vl.smart_resize
    for height, width in random_sizes():
        expected = or_refused(reference, height, width, factor, low, high)
        assert or_refused(navit.smart_resize, height, width, factor, low, high) == expected, (height, width)


def test_qwen_vl_utils_differs_only_below_half_a_factor():
    differing = 0
    for height, width in random_sizes():
        ours = or_refused(navit.smart_resize, height, width)
        theirs = or_refused(navit.smart_resize, height, width, variant="qwen_vl_utils")
        assert ours == theirs or min(height, width) <= 14, (height, width)
        differing += ours != theirs
    assert differing
    # qwen-vl-utils rounds as Lfm2-VL does, which is installed and has no limit on the aspect.
    lfm = Lfm2VlImageProcessor()
    for height, width in random_sizes():
        if max(height, width) <= 200 * min(height, width):
            wide, tall = lfm.smart_resize(height, width, 2, 64, 256, 16)
            ours = navit.smart_resize(height, width, 32, 65_536, 262_144, variant="qwen_vl_utils")
            assert ours == (tall, wide)


def test_exactly_200_to_1_passes():
    assert navit.smart_resize(10, 2000) == (28, 812)
    with pytest.raises(DataError, match="aspect_extreme"):
        navit.smart_resize(10, 2001)


@pytest.mark.parametrize(("patch", "budget"), [(16, 256), (14, 576), (16, 1024)])
def test_naflex_on_random_sizes(patch, budget):
    for height, width in random_sizes(2100, seed=budget):
        ours = navit.naflex_size(height, width, patch, budget)
        assert ours == get_image_size_for_max_num_patches(height, width, patch, budget), (height, width)


def test_naflex_as_the_original_searches():
    for height, width in random_sizes()[::5]:
        tall, wide = navit.naflex_size(height, width, variant="big_vision")
        assert tall * wide <= 256 * 16**2
    # In float32 a threshold of both sides at once falls apart.
    assert navit.naflex_size(9, 81) == (80, 720)
    assert navit.naflex_size(9, 81, variant="big_vision") == (80, 736)


def test_pix2struct_on_random_sizes():
    for height, width in random_sizes():
        scale = (2048 * (16 / height) * (16 / width)) ** 0.5
        expected = tuple(max(min(int(scale * side / 16), 2048), 1) for side in (height, width))
        assert navit.pix2struct_grid(height, width) == expected
        assert expected[0] * expected[1] <= 2048


@pytest.mark.parametrize(("patch", "longest"), [(16, 1024), (28, 1540), (14, 100)])
def test_pixtral_on_random_sizes(patch, longest):
    for height, width in random_sizes():
        picture = np.broadcast_to(np.uint8(0), (height, width, 3))
        expected = get_resize_output_image_size(picture, longest, patch, "channels_last")
        ours = or_refused(navit.pixtral_size, height, width, patch, longest)
        assert ours == (expected if min(expected) > 0 else "refused"), (height, width)


def lengths(number: int) -> list[int]:
    return [int(value) for value in np.random.default_rng(5).integers(1, 769, number)]


@pytest.mark.parametrize("cap", [False, True])
def test_video_sizes_of_qwen2_on_random_sizes(cap):
    processor = video_processing_qwen2_vl.Qwen2VLVideoProcessor()
    for frames, (height, width) in zip(lengths(2500), random_sizes(), strict=True):
        low, high = processor.size["shortest_edge"], processor.size["longest_edge"]
        if cap:  # as in Qwen2VLVideoProcessor.resize
            total = int(processor.max_video_tokens * 28 * 28 * 0.9)
            high = max(min(high, total * 2 // frames), int(low * 1.05))
        expected = or_refused(video_processing_qwen2_vl.smart_resize, height, width, 28, low, high)
        ours = or_refused(navit.video_size, frames, height, width, cap_pixels_per_frame=cap)
        assert ours == expected, (frames, height, width)


@pytest.mark.parametrize("cap", [False, True])
def test_video_sizes_of_qwen3_on_random_sizes(cap):
    processor = video_processing_qwen3_vl.Qwen3VLVideoProcessor(
        size={"shortest_edge": 4096, "longest_edge": 25_165_824}, cap_pixels_per_frame=cap
    )
    refused = 0
    for frames, (height, width) in zip(lengths(2500), random_sizes(), strict=True):
        try:
            patches = processor.get_num_of_video_patches(frames, height, width)
            high = 25_165_824
            if cap:
                high = max(min(768 * 32 * 32, high // frames), int(4096 * 1.05)) * frames
            expected = video_processing_qwen3_vl.smart_resize(frames, height, width, 2, 32, 4096, high)
            assert patches == -(-frames // 2) * expected[0] * expected[1] // 256
        except ValueError:
            expected = "refused"
            refused += 1
        ours = or_refused(navit.video_size, frames, height, width, variant="qwen3_vl", cap_pixels_per_frame=cap)
        assert ours == expected, (frames, height, width)
    assert 0 < refused < 1000


def test_the_cap_matters():
    assert navit.video_size(700, 1080, 1920) != navit.video_size(700, 1080, 1920, cap_pixels_per_frame=True)
    long, short = (navit.video_size(n, 1080, 1920, variant="qwen3_vl", cap_pixels_per_frame=True) for n in (700, 4))
    assert short != navit.video_size(4, 1080, 1920, variant="qwen3_vl")
    assert long[0] * long[1] < short[0] * short[1]


def test_one_frame_is_too_few_for_qwen3():
    with pytest.raises(DataError, match="too_few_frames"):
        navit.video_size(1, 480, 640, variant="qwen3_vl")
    assert navit.video_size(1, 480, 640) == navit.video_size(2, 480, 640)


def test_timestamps_of_patches():
    draw = np.random.default_rng(0)
    for frames in range(1, 40):
        indices, fps = sorted(draw.integers(0, 500, frames).tolist()), float(draw.uniform(5, 60))
        expected = Qwen3VLProcessor._calculate_timestamps(None, list(indices), fps, 2)
        ours = navit.patch_times([index / fps for index in indices])
        assert [f"{seconds:.1f}" for seconds in ours] == [f"{seconds:.1f}" for seconds in expected]
        assert ours == pytest.approx(expected, abs=1e-12)


def test_seconds_between_patches():
    for frames, total, fps in [(8, 100, 25.0), (14, 17, 29.97), (2, 2, 1.0)]:
        metadata = VideoMetadata(total_num_frames=total, fps=fps, frames_indices=list(range(frames)))
        assert navit.second_per_grid(frames, total, fps) == 2 / metadata.sampled_fps


def test_dynamic_resolution_can_fall_below_its_least():
    below = 0
    for height, width in random_sizes():
        tall, wide = navit.dynamic_resolution(height, width)
        assert tall % 14 == wide % 14 == 0
        if min(tall, wide) > 14:  # where no side was raised to one patch
            assert tall * wide <= 1024**2
            below += tall * wide < 224**2
    assert below
    plan = navit.SmartResize(rule="dynamic_resolution", merge=1, min_pixels=224**2, max_pixels=1024**2).plan((480, 640))
    assert (plan.grid, plan.tokens) == ((1, 34, 45), 34 * 45)


def test_huge_headers_are_planned():
    for view in (navit.SmartResize(), navit.NaFlex(), navit.Pix2Struct(), navit.LongestEdge(), navit.NaViT()):
        plan = view.plan(image(60_000, 90_000))
        assert math.prod(plan.shape) < 100_000_000
        assert plan.size == (60_000, 90_000)


def test_planning_is_cheap():
    for view in (navit.SmartResize(), navit.NaFlex(), navit.Pix2Struct(), navit.LongestEdge(), navit.NaViT()):
        facts = image(3024, 4032)
        seconds = min(timeit.repeat(lambda view=view, facts=facts: view.plan(facts), number=50, repeat=5)) / 50
        assert seconds < 1e-3, view  # tens of microseconds on a quiet machine


@pytest.mark.parametrize(
    "view", [navit.SmartResize(), navit.NaFlex(), navit.Pix2Struct(), navit.LongestEdge(), navit.NaViT()]
)
def test_what_is_missing_or_wrong(view):
    with pytest.raises(DataError, match="no_facts"):
        view.plan(Media(kind="image", width=3))
    described = view.describe()
    assert described.pop("view")
    assert type(view)(**described) == view  # the description says everything
    with pytest.raises(SpecError):
        type(view)(patch=0)


def test_a_strip_that_would_fill_the_memory_is_refused():
    with pytest.raises(DataError, match="aspect_extreme"):
        navit.Pix2Struct().plan((50_000_000, 1))
    with pytest.raises(DataError, match="aspect_extreme"):
        navit.LongestEdge().plan((1, 4000))


def test_wrong_parameters():
    for wrong in (
        lambda: navit.smart_resize(5, 5, min_pixels=10, max_pixels=5),
        lambda: navit.smart_resize(5, 5, variant="other"),
        lambda: navit.naflex_size(5, 5, max_num_patches=0),
        lambda: navit.naflex_size(5, 5, variant="other"),
        lambda: navit.video_size(5, 5, 5, variant="other"),
        lambda: navit.SmartResize(rule="dynamic_resolution"),
        lambda: navit.SmartResize(min_pixels=100, max_pixels=99),
        lambda: navit.patch_coordinates((1, 3, 4), merge=2),
    ):
        with pytest.raises(SpecError):
            wrong()


def test_video_patches():
    plan = navit.VideoPatches().plan(7, 360, 640)
    tall, wide = navit.video_size(7, 360, 640)
    assert plan.grid == (4, tall // 14, wide // 14)
    assert plan.tokens == plan.shape[0] // 4 == 4 * tall * wide // 784
    assert plan.ops[-1] == Patchify(14, merge=2, temporal=2)
    third = navit.VideoPatches(variant="qwen3_vl", patch=16).plan(7, 360, 640)
    assert third.shape == (4 * third.grid[1] * third.grid[2], 1536)
