"""The patches of native-resolution views are those of the installed processors, and have the planned shapes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.pix2struct.image_processing_pil_pix2struct import Pix2StructImageProcessorPil
from transformers.models.pix2struct.image_processing_pix2struct import Pix2StructImageProcessor
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.pixtral.image_processing_pixtral import PixtralImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.siglip2.image_processing_siglip2 import Siglip2ImageProcessor

from mmdata.errors import DataError
from mmdata.rng import generator
from mmdata.views import navit
from mmdata.views._picture import HALF
from mmdata.views.pixels import apply, normalise_on_device
from tests.views.tiling import SMALL, noise, pictures

QWEN2_LIMITS = {"shortest_edge": 3136, "longest_edge": 12_845_056}
QWEN3_LIMITS = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
QWEN3 = {"patch": 16, "min_pixels": 65_536, "max_pixels": 16_777_216, "mean": HALF, "std": HALF}


def processors(pil: bool):
    """Views with what Hugging Face has for each: processor, key of the pixels, and of what follows from the plan."""
    qwen = Qwen2VLImageProcessorPil if pil else Qwen2VLImageProcessor
    siglip2 = Siglip2ImageProcessorPil if pil else Siglip2ImageProcessor
    pix2struct = Pix2StructImageProcessorPil if pil else Pix2StructImageProcessor
    pixtral = PixtralImageProcessorPil if pil else PixtralImageProcessor
    backend = "pil" if pil else "torchvision"
    third = {"patch_size": 16, "image_mean": HALF, "image_std": HALF}
    return {
        "qwen2": (navit.SmartResize(backend=backend), qwen(size=QWEN2_LIMITS), "pixel_values"),
        "qwen3": (navit.SmartResize(backend=backend, **QWEN3), qwen(size=QWEN3_LIMITS, **third), "pixel_values"),
        "naflex": (navit.NaFlex(backend=backend), siglip2(do_convert_rgb=True), "pixel_values"),
        "naflex1024": (
            navit.NaFlex(budget=1024, backend=backend),
            siglip2(do_convert_rgb=True, max_num_patches=1024),
            "pixel_values",
        ),
        "pix2struct": (navit.Pix2Struct(backend=backend), pix2struct(), "flattened_patches"),
        "pixtral": (navit.LongestEdge(backend=backend), pixtral(), "pixel_values"),
    }


def companions(name, plan):
    """What the model gets beside the pixels, from the plan alone."""
    _, rows, columns = plan.grid
    mask = (np.arange(plan.shape[0]) < rows * columns).astype(np.int32)
    if name.startswith("qwen"):
        return {"image_grid_thw": np.array([plan.grid])}
    if name.startswith("naflex"):
        return {"pixel_attention_mask": mask[None], "spatial_shapes": np.array([[rows, columns]])}
    if name == "pix2struct":
        return {"attention_mask": mask[None].astype(np.float32)}
    return {"image_sizes": np.array([plan.shape[1:]])}


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "naflex", "naflex1024", "pix2struct", "pixtral"])
@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_pixels_are_the_processors(name, backend):
    view, processor, key = processors(backend == "pil")[name]
    # Pillow resizes the strips as the other backend does; one photograph tells the backends apart.
    made = [*pictures(), *(noise(height, width) for height, width in SMALL)]
    refused = 0
    for pixels in made if backend == "torchvision" else made[::2]:
        try:
            plan = view.plan(pixels.shape[:2])
        except DataError:
            with pytest.raises((ValueError, RuntimeError)):
                processor(torch.from_numpy(pixels).permute(2, 0, 1), return_tensors="pt")
            refused += 1
            continue
        ours = view.realize(pixels, plan)
        theirs = processor(torch.from_numpy(pixels).permute(2, 0, 1), return_tensors="pt")
        expected = theirs[key].reshape(ours.shape)
        assert ours.dtype == expected.dtype == torch.float32
        assert tuple(ours.shape) == plan.shape
        assert float((ours - expected).abs().max()) <= 1e-5, (name, pixels.shape)
        for companion, array in companions(name, plan).items():
            assert np.array_equal(theirs[companion], array), (companion, pixels.shape)
    assert bool(refused) == (name in ("qwen2", "qwen3", "pixtral"))


def videos():
    """Frames uint8 [T, 3, H, W]: a pan over a photograph with an odd number of frames, and noise."""
    photo = torch.from_numpy(pictures()[0]).permute(2, 0, 1)
    pan = torch.stack([photo[:, at : at + 180, 2 * at : 2 * at + 240] for at in range(0, 50, 10)])
    rough = torch.from_numpy(np.stack([noise(90, 65 + i)[:, :65] for i in range(4)])).permute(0, 3, 1, 2)
    return [pan, rough.contiguous(), pan[:2]]


@pytest.mark.parametrize("third", [False, True])
def test_video_patches_are_the_processors(third):
    if third:
        geometry = navit.VideoPatches(variant="qwen3_vl", patch=16, mean=HALF, std=HALF)
        processor = Qwen3VLVideoProcessor(size={"shortest_edge": 4096, "longest_edge": 25_165_824})
    else:
        geometry = navit.VideoPatches()
        processor = Qwen2VLVideoProcessor()
    for frames in videos():
        plan = geometry.plan(len(frames), *frames.shape[-2:])
        ours = apply(frames, plan.ops)
        theirs = processor(frames, do_sample_frames=False, cap_pixels_per_frame=False, return_tensors="pt")
        assert torch.equal(theirs["video_grid_thw"], torch.tensor([plan.grid]))
        assert tuple(ours.shape) == plan.shape == tuple(theirs["pixel_values_videos"].shape)
        assert float((ours - theirs["pixel_values_videos"]).abs().max()) <= 1e-5


def test_uint8_is_normalised_on_the_device_to_the_same_values():
    pixels = pictures()[0]
    for exact in (navit.SmartResize(), navit.NaFlex(), navit.NaViT(), navit.LongestEdge()):
        plan = exact.plan(pixels.shape[:2])
        raw = dataclasses.replace(exact, dtype="uint8")
        small = raw.realize(pixels, plan)
        assert small.dtype == torch.uint8
        assert raw.plan(pixels.shape[:2]) == plan
        patchify = plan.ops[-1] if isinstance(exact, navit.SmartResize | navit.NaFlex | navit.NaViT) else None
        mask = torch.arange(plan.shape[0]) < plan.grid[1] * plan.grid[2] if isinstance(exact, navit.NaFlex) else None
        floats = normalise_on_device(small, exact.mean, exact.std, patchify=patchify, mask=mask)
        assert torch.equal(floats, exact.realize(pixels, plan))


side = st.one_of(st.integers(1, 70), st.sampled_from([1, 2, 13, 27, 28, 29, 112, 199, 200, 400]))


@settings(max_examples=60, deadline=None)
@given(side, side, st.integers(0, 2**40), st.booleans())
def test_what_is_planned_is_made(height, width, draw, pad):
    pixels = noise(height, width)
    views = [
        navit.SmartResize(max_pixels=50_176),
        navit.SmartResize(patch=16, min_pixels=1024, max_pixels=65_536),
        navit.SmartResize(rule="qwen_vl_utils", max_pixels=50_176),
        navit.SmartResize(rule="dynamic_resolution", merge=1, temporal=1, min_pixels=196, max_pixels=65_536),
        navit.NaFlex(pad=pad),
        navit.Pix2Struct(budget=64, pad=pad),
        navit.LongestEdge(size=64, patch=14, merge=2),
    ]
    for view in views:
        try:
            plan = view.plan((height, width))
        except DataError as error:
            assert error.reason == "aspect_extreme"  # noqa: PT017
            continue
        assert tuple(view.realize(pixels, plan).shape) == plan.shape
    view = navit.NaViT(drop_mean=0.5)
    plan = view.plan((height, width), rng=generator(0, draw, "key", "navit"))
    assert tuple(view.realize(pixels, plan).shape) == plan.shape
    assert plan.tokens == plan.shape[0] == len(navit.kept_coordinates(plan))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), side, side, st.sampled_from(["qwen2_vl", "qwen3_vl"]), st.booleans())
def test_what_is_planned_of_videos_is_made(frames, height, width, variant, cap):
    geometry = navit.VideoPatches(
        variant=variant, min_pixels=1024, max_pixels=40_000 * (1 if variant == "qwen2_vl" else frames),
        cap_pixels_per_frame=cap, patch=14 if variant == "qwen2_vl" else 16,
    )  # fmt: skip
    try:
        plan = geometry.plan(frames, height, width)
    except DataError as error:
        assert error.reason in ("aspect_extreme", "too_few_frames")  # noqa: PT017
        return
    pixels = torch.from_numpy(noise(height, width)).permute(2, 0, 1).expand(frames, -1, -1, -1)
    assert tuple(apply(pixels, plan.ops).shape) == plan.shape
    assert plan.grid[0] == -(-frames // 2)


def test_the_plain_function_cuts_as_the_views_do():
    pixels = torch.from_numpy(noise(84, 56)).permute(2, 0, 1)
    for options in (
        {"size": 14, "merge": 2, "temporal": 2},
        {"size": 14, "channels_last": True, "pad_to": 30},
        {"size": 28, "grid_ids": True, "channels_last": True},
    ):
        rows = navit.patchify(pixels.float(), **options)
        width = 3 * options["size"] ** 2 * options.get("temporal", 1) + 2 * options.get("grid_ids", False)
        assert rows.shape == (options.get("pad_to") or 84 * 56 // options["size"] ** 2, width)
    # By hand: the second patch of a 2 x 2 block, its second channel, second frame (the same picture), first row.
    rows = navit.patchify(pixels, 14, merge=2, temporal=2)
    assert torch.equal(rows[1].view(3, 2, 14, 14)[1, 1, 0], pixels[1, 0, 14:28])
    assert torch.equal(rows[2].view(3, 2, 14, 14)[1, 0, 5], pixels[1, 19, 0:14])
    for row, (y, x) in zip(rows, navit.patch_coordinates((1, 6, 4), merge=2), strict=True):
        assert torch.equal(row.view(3, 2, 14, 14)[:, 0], pixels[:, 14 * y : 14 * y + 14, 14 * x : 14 * x + 14])
