"""Videos of OneVision, InternVL and SmolVLM against their processors; every family over many facts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata import registry
from mmdata.errors import DataError, SpecError
from mmdata.families import Family, get_family
from mmdata.families._family import media_ids, media_length, plan_media
from mmdata.stream.reader import dummy
from mmdata.types import Media
from tests.families.processors import PHOTOS, batch, image, same, tensor, tokenizer
from tests.families.test_processors import SPLIT
from tests.families.test_qwen import CLIP, FPS, clip, recorded


def metadata(frames: int) -> list[dict[str, Any]]:
    described: dict[str, Any] = {"fps": FPS, "total_num_frames": frames, "frames_indices": list(range(frames))}
    return [{**described, "duration": frames / FPS}]


def test_llava_onevision_videos_are_all_equally_long() -> None:
    words = tokenizer(image_token="<image>", video_token="<video>")
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, **half),
        words,
        hf.LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56}, **half),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    family = get_family("llava_onevision", tokenizer=words, video={"size": 56, "num_frames": 4})
    for frames in (3, 4, 11):
        facts, _ = clip(frames)
        plan = family.media["video"].view.plan(facts)
        assert len(plan.frames) == 4
        sampled = CLIP[list(plan.frames)]
        theirs = processor(text=["a <video> of"], videos=[sampled], return_tensors="pt", add_special_tokens=False)
        ours = batch(family, [["a ", (facts, sampled), " of"]])
        same(ours, theirs, ["input_ids", "pixel_values_videos"])


def test_llava_onevision_needs_a_number_of_frames() -> None:
    words = tokenizer(image_token="<image>", video_token="<video>")
    with pytest.raises(SpecError, match=r"family llava_onevision: video: .*; give num_frames"):
        get_family("llava_onevision", tokenizer=words, video={"fps": 1.0})


def test_internvl_videos_and_images_share_one_array() -> None:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(**named)
    stats = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    processor = hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(
            size={"height": 56, "width": 56}, min_patches=1, max_patches=6, crop_to_patches=True, **stats
        ),
        words,
        hf.InternVLVideoProcessor(size={"height": 56, "width": 56}, **stats),
        image_seq_length=4,
    )
    family = get_family(
        "internvl", tokenizer=words, image={"size": 56, "max_tiles": 6}, video={"size": 56, "num_frames": 4}
    )
    facts, _ = clip(11)
    sampled = CLIP[list(family.media["video"].view.plan(facts).frames)]
    theirs = processor(
        text=["a <video> and <IMG_CONTEXT> of"],
        images=[tensor(PHOTOS[0])],
        videos=[sampled],
        return_tensors="pt",
        add_special_tokens=False,
    )
    ours = batch(family, [["a ", (facts, sampled), " and ", image(PHOTOS[0]), " of"]])
    same(ours, theirs, ["pixel_values"])
    same(ours, theirs, ["input_ids"])


def test_smolvlm_videos() -> None:
    pytest.importorskip("num2words", reason="transformers' SmolVLM processor needs it")
    words = tokenizer(**SPLIT, video_token="<video>")
    processor = hf.SmolVLMProcessor(
        hf.SmolVLMImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 32}),
        words,
        hf.SmolVLMVideoProcessor(
            size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, video_sampling={"fps": 1, "max_frames": 3}
        ),
        image_seq_len=1,
    )
    family = get_family(
        "smolvlm",
        tokenizer=words,
        image={"size": 32, "longest_edge": 112, "patch": 8},
        video={"num_frames": 3, "longest_edge": 32, "clock": "index"},
    )
    for frames in (7, 11):
        facts, _ = clip(frames)
        plan = family.media["video"].view.plan(facts)
        theirs = processor(
            text=["a <video> of"],
            videos=[[CLIP[:frames]]],
            video_metadata=[metadata(frames)],
            do_sample_frames=True,
            return_tensors="pt",
            add_special_tokens=False,
        )
        ours = batch(family, [["a ", (facts, CLIP[list(plan.frames)]), " of"]])
        same(ours, theirs, ["pixel_values"])
        same(ours, theirs, ["input_ids"])


MARKS = sorted(
    {
        *("<image>", "<video>", "<audio>", "<IMG_CONTEXT>", "<img>", "</img>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        *(
            "<|image_pad|>",
            "<|video_pad|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|IMAGE|>",
            "<|VIDEO|>",
            "<|AUDIO|>",
        ),
        *("<image_soft_token>", "<start_of_image>", "<end_of_image>", "<fake_token_around_image>", "<global-img>"),
    }
)


def every_family() -> list[Family]:
    words = tokenizer(**{f"mark_{at}": mark for at, mark in enumerate(MARKS)})
    return [get_family(name, tokenizer=words) for name in registry.kinds("family")]


side = st.integers(1, 5000)


@given(side, side, st.integers(1, 5000), st.sampled_from([1.0, 12.5, 29.97, 60.0]), st.integers(1, 10**7))
@settings(max_examples=60, deadline=None)
def test_every_layout_has_a_placeholder_for_every_feature(
    height: int, width: int, frames: int, fps: float, samples: int
) -> None:
    for family in every_family():
        facts = {
            "image": Media(kind="image", height=height, width=width),
            "video": Media(kind="video", height=height, width=width, frames=frames, fps=fps, seconds=frames / fps),
            "audio": Media(kind="audio", samples=samples, sample_rate=16_000),
        }
        for kind, rule in family.media.items():
            try:
                (plan,) = plan_media(family, [facts[kind]])
            except DataError:
                continue
            ids = media_ids(family, plan)
            assert len(ids) == media_length(family, plan)
            if rule.placeholder is not None:
                assert ids.count(family.placeholder_id(rule) or 0) == plan.tokens
            assert min(plan.shape) > 0


def test_every_family_has_a_dummy_of_its_own() -> None:
    for family in every_family():
        pack = dummy(family)
        for kind, rule in family.media.items():
            assert rule.key in pack.media, (family.name, kind)
        assert (pack.labels == -100).all()
        if family.positions != "plain":
            assert pack.position_ids.shape == (4, len(pack.input_ids))


def test_native_is_patches_without_padding() -> None:
    words = tokenizer(**{f"mark_{at}": mark for at, mark in enumerate(MARKS)})
    family = get_family("native", tokenizer=words)
    facts, _ = clip(11)
    sampled = CLIP[list(family.media["video"].view.plan(facts).frames)]
    ours = batch(family, [[image(PHOTOS[0]), " and ", (facts, sampled), "."], [image(PHOTOS[1]), "."]])
    grid = ours["image_grid_thw"]
    assert len(grid) == 3
    assert ours["pixel_values"].shape == (int(grid.prod(1).sum()), 3 * 16 * 16)
    placeholders = torch.isin(ours["input_ids"], torch.tensor(words.convert_tokens_to_ids(["<image>", "<video>"])))
    assert int(placeholders.sum()) == int(grid.prod(1).sum()) // 4


def test_times_in_the_text_count_from_the_first_frame() -> None:
    family = get_family("smolvlm", tokenizer=tokenizer(**SPLIT, video_token="<video>"), video={"fps": 5.0})
    early, late = recorded()
    assert media_ids(family, family.media["video"].view.plan(late)) == media_ids(
        family, family.media["video"].view.plan(early)
    )
