"""Placeholders, features and pixels of every family belong together (training.md, pitfalls 19, 25, 28, 38, 39, 40)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from mmdata.collate import PackedCollator, model_inputs
from mmdata.errors import DataError
from mmdata.families import get_family
from mmdata.families._family import media_ids, plan_media
from mmdata.stream.reader import dummy
from mmdata.types import Media
from mmtrain.certificate import adopt
from mmtrain.objective import loss_sum
from tests.families.processors import image, packed, tensor, tokenizer
from tests.families.test_processors import SPLIT
from tests.families.test_qwen import QWEN, qwen
from tests.mmtrain.test_pitfalls_packing import gradients
from tests.mmtrain.tiny_models import ALL, FAMILIES, MASKED, family, make, samples, token, words


def siblings(name: str) -> tuple[Any, Any, str]:
    """The processor of a family as published, the family, and the placeholder that both count."""
    match name:
        case "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl":
            processor, ours = qwen({"qwen2_vl": "2", "qwen2_5_vl": "2.5", "qwen3_vl": "3"}[name])
            return processor, ours, QWEN["image_token"]
        case "llava" | "llava_next":
            marks = tokenizer(image_token="<image>")
            images = {"llava": hf.CLIPImageProcessor, "llava_next": hf.LlavaNextImageProcessor}[name]
            size = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
            kind = {"llava": hf.LlavaProcessor, "llava_next": hf.LlavaNextProcessor}[name]
            options = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
            return kind(images(**size), marks, patch_size=14, **options), get_family(name, tokenizer=marks), "<image>"
        case "llava_onevision":
            marks = tokenizer(image_token="<image>", video_token="<video>")
            processor = hf.LlavaOnevisionProcessor(
                hf.LlavaOnevisionImageProcessor(),
                marks,
                hf.LlavaOnevisionVideoProcessor(),
                num_image_tokens=729,
                vision_feature_select_strategy="full",
            )
            return processor, get_family(name, tokenizer=marks), "<image>"
        case "idefics3":
            marks = tokenizer(**SPLIT)
            processor = hf.Idefics3Processor(hf.Idefics3ImageProcessor(), marks, image_seq_len=169)
            return processor, get_family(name, tokenizer=marks), "<image>"
        case "internvl":
            named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
            marks = tokenizer(**named, video_token="<video>")
            images = hf.GotOcr2ImageProcessor(size={"height": 448, "width": 448}, crop_to_patches=True)
            processor = hf.InternVLProcessor(images, marks, hf.InternVLVideoProcessor(), image_seq_length=256)
            return processor, get_family(name, tokenizer=marks), "<IMG_CONTEXT>"
        case _:
            marks = tokenizer(image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]")
            images = hf.PixtralImageProcessor(patch_size={"height": 16, "width": 16})
            return hf.PixtralProcessor(images, marks, patch_size=16), get_family(name, tokenizer=marks), "[IMG]"


COUNTED = [
    *("llava", "llava_next", "llava_onevision", "idefics3", "internvl", "pixtral"),
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
]


@pytest.mark.parametrize("name", COUNTED)
def test_placeholders_are_counted_from_sizes_as_transformers_counts_them(name: str) -> None:
    """19: 2,000 sizes, 1 to 5,000 pixels a side; those that a family refuses for their shape are left out."""
    processor, ours, placeholder = siblings(name)
    draw = np.random.default_rng(19)
    sizes = [(1, 1), (1, 3000), *np.exp(draw.uniform(0, 8.5, (2000, 2))).astype(int).tolist()]
    mine, kept = [], []
    for height, width in sizes:
        if name == "pixtral" and height in (1, 3):
            continue  # transformers takes so many rows for colour channels
        try:
            (plan,) = plan_media(ours, [Media(kind="image", height=height, width=width)])
        except DataError:
            continue
        assert media_ids(ours, plan).count(ours.tokenizer.convert_tokens_to_ids(placeholder)) == plan.tokens
        mine.append(media_length(ours, plan, name))
        kept.append((height, width))
    theirs = processor._get_num_multimodal_tokens(image_sizes=kept)["num_image_tokens"]
    wrong = [(size, one, other) for size, one, other in zip(kept, mine, theirs, strict=True) if one != other]
    assert not wrong, (len(wrong), wrong[:3])
    assert len(kept) > 1200


def media_length(ours: Any, plan: Any, name: str) -> int:
    """What transformers counts for a picture: of some families the marks too."""
    return len(media_ids(ours, plan)) if name in ("idefics3", "internvl", "pixtral") else plan.tokens


SEEING = [name for name, tiny in ALL.items() if "image" in tiny.kinds]


@pytest.mark.parametrize("name", SEEING)
def test_models_make_a_feature_for_every_placeholder(name: str) -> None:
    """19: transformers refuses a batch whose features are not as many as its placeholders."""
    model, draw = make(name), np.random.default_rng(7)
    rows: list[list[Any]] = []
    # transformers' Mistral 3 squeezes a batch of one picture of one token to nothing that it can split.
    smallest = (40, 40) if name == "mistral3" else (1, 1)
    for height, width in [smallest, (13, 40), *draw.integers(20, 160, (6, 2)).tolist()]:
        rows.append(["<s>", image(draw.integers(0, 256, (height, width, 3)).astype(np.uint8)), " of</s>"])
    for row in rows:
        batch = model_inputs(PackedCollator()(packed(family(name), [row])))
        batch = {key: value for key, value in batch.items() if key not in ("seq_idx", "cu_seq_lens_q", "cu_seq_lens_k")}
        with torch.no_grad():
            assert torch.isfinite(model(**batch).logits).all()


@pytest.mark.parametrize("name", ALL)
def test_no_label_is_a_placeholder(name: str) -> None:
    """25: nor one of the marks around a medium."""
    marks = {token(mark) for mark in words().all_special_tokens} - {words().eos_token_id}
    for pack in samples(name):
        assert not marks & set(pack.labels.tolist())
        assert (pack.labels != -100).sum() == 5


@pytest.mark.parametrize("name", [*FAMILIES, *MASKED])
def test_a_dummy_pack_adds_nothing_and_reaches_what_the_others_reach(name: str) -> None:
    """28, and 27 for one process: loss and gradients with it are those without, and its own are zeros for every
    parameter that a pack with all kinds of media trains, so that no rank waits for a gradient."""
    model, packs = make(name).train(), samples(name)
    strategy: Any = "masks" if name in MASKED else "varlen"
    adopt(model, strategy)
    total, weight = loss_sum(model, PackedCollator()(packs), strategy=strategy)
    (total / weight).backward()
    expected = gradients(model)
    nothing, none = loss_sum(model, PackedCollator()(dummy(family(name))), strategy=strategy)
    assert float(none) == float(nothing.detach()) == 0
    nothing.backward()
    zeros = gradients(model)
    assert zeros.keys() == expected.keys()
    assert all(float(gradient.abs().max()) == 0 for gradient in zeros.values())
    again, _ = loss_sum(model, PackedCollator()(packs), strategy=strategy)
    ((again + nothing.detach()) / (weight + none)).backward()
    found = gradients(model)
    assert max(float((found[each] - expected[each]).abs().max()) for each in expected) < 1e-7


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_a_picture_of_zeros_keeps_its_features(name: str) -> None:
    """38: black, with a mean of 0: the models would drop it as padding and miss features."""
    options = {**(FAMILIES[name].image or {}), "mean": (0.0, 0.0, 0.0)}
    ours = get_family(name, tokenizer=words(), image=options)
    black = np.zeros((40, 60, 3), np.uint8)
    pack = packed(ours, [["<s>", image(black), " of</s>"]])
    assert pack.media["pixel_values"].reshape(len(pack.media["pixel_values"]), -1).any(1).all()
    assert np.abs(pack.media["pixel_values"]).max() < 1e-4
    with torch.no_grad():
        batch = {key: value for key, value in PackedCollator()(pack).items() if key.startswith(("input", "pixel"))}
        assert torch.isfinite(make(name)(**batch).logits).all()


def test_videos_of_onevision_can_be_stacked() -> None:
    """39: every video has as many frames as the model takes, however long it is."""
    ours = get_family("llava_onevision", tokenizer=words(), video={"num_frames": 4, "size": 28})
    facts = [Media(kind="video", height=70, width=90, frames=n, fps=5.0, seconds=n / 5) for n in (1, 3, 4, 900)]
    plans = [plan_media(ours, [fact])[0] for fact in facts]
    assert {plan.shape for plan in plans} == {(4, 3, 28, 28)}


def of_blocks(rows: np.ndarray, grid: tuple[int, int], patch: int, merge: int, frames: int) -> np.ndarray:
    """Qwen's order: 2 x 2 patches after each other, each as (channel, frame, row, column)."""
    tall, wide = grid
    cut = rows.reshape(tall // merge, wide // merge, merge, merge, 3, frames, patch, patch)
    return cut.transpose(5, 4, 0, 2, 6, 1, 3, 7).reshape(frames, 3, tall * patch, wide * patch)[0]


def of_raster(rows: np.ndarray, grid: tuple[int, int], patch: int) -> np.ndarray:
    """SigLIP 2's order: row after row, each patch as (row, column, channel)."""
    tall, wide = grid
    cut = rows[: tall * wide].reshape(tall, wide, patch, patch, 3)
    return cut.transpose(4, 0, 2, 1, 3).reshape(3, tall * patch, wide * patch)


LAYOUTS: dict[str, tuple[int, Callable[..., np.ndarray]]] = {
    "qwen2_vl": (14, lambda rows, grid: of_blocks(rows, grid, 14, 2, 2)),
    "qwen3_vl": (16, lambda rows, grid: of_blocks(rows, grid, 16, 2, 2)),
    "native": (16, lambda rows, grid: of_blocks(rows, grid, 16, 2, 1)),
    "siglip2": (16, lambda rows, grid: of_raster(rows, grid, 16)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_patches_put_together_are_the_resized_picture(name: str) -> None:
    """40: a picture whose size is kept, of numbered pixels, comes back as it was."""
    patch, together = LAYOUTS[name]
    tall, wide = 6, 10
    pixels = np.random.default_rng(3).integers(0, 256, (tall * patch, wide * patch, 3)).astype(np.uint8)
    if name == "siglip2":
        options: dict[str, Any] = {"budget": tall * wide, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    else:
        options = {"min_pixels": 4, "max_pixels": pixels.size, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    ours = get_family(name, tokenizer=words(), image=options)
    view = ours.media["image"].view
    plan = view.plan(Media(kind="image", height=pixels.shape[0], width=pixels.shape[1]))
    assert plan.grid == (1, tall, wide)
    found = together(view.realize(pixels, plan).numpy(), (tall, wide))
    assert np.abs(found * 255 - tensor(pixels).numpy()).max() < 1e-3
