"""A family of a checkpoint's folder sees what that checkpoint's own processor sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers as hf

from mmdata.errors import SpecError
from mmdata.families import get_family
from tests.families.processors import PHOTOS, batch, image, same, tensor, tokenizer
from tests.families.test_processors import SPLIT

GRID = [[56, 112], [112, 56], [112, 112]]
QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}


def cases() -> dict[str, tuple[Any, dict[str, str], dict[str, Any]]]:
    """Image processor, special tokens, and what `config.json` adds, by family."""
    return {
        "llava": (
            hf.CLIPImageProcessor(size={"shortest_edge": 70}, crop_size={"height": 56, "width": 56}),
            {"image_token": "<image>"},
            {"vision_config": {"patch_size": 28}},
        ),
        "llava_next": (
            hf.LlavaNextImageProcessor(
                size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=GRID
            ),
            {"image_token": "<image>"},
            {"vision_config": {"patch_size": 14}},
        ),
        "llava_onevision": (
            hf.LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=GRID),
            {"image_token": "<image>", "video_token": "<video>"},
            {"vision_config": {"patch_size": 14}},
        ),
        "internvl": (
            hf.GotOcr2ImageProcessor(size={"height": 56, "width": 56}, max_patches=5, crop_to_patches=True),
            {"context_image_token": "<IMG_CONTEXT>"},
            {"vision_config": {"patch_size": [14, 14]}, "downsample_ratio": 0.5},
        ),
        "idefics3": (
            hf.Idefics3ImageProcessor(size={"longest_edge": 84}, max_image_size={"longest_edge": 28}),
            SPLIT,
            {"vision_config": {"patch_size": 7}, "scale_factor": 2},
        ),
        "gemma3": (
            hf.Gemma3ImageProcessor(size={"height": 112, "width": 112}),
            {"image_token": "<image_soft_token>"},
            {"vision_config": {"patch_size": 14}, "mm_tokens_per_image": 16},
        ),
        "paligemma": (
            hf.SiglipImageProcessor(size={"height": 56, "width": 56}),
            {"image_token": "<image>"},
            {"vision_config": {"patch_size": 14}},
        ),
        "qwen2_vl": (hf.Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 9408}), QWEN, {}),
        "qwen3_vl": (
            hf.Qwen2VLImageProcessor(
                size={"shortest_edge": 1024, "longest_edge": 9216}, patch_size=16, image_mean=[0.4] * 3
            ),
            QWEN,
            {},
        ),
        "siglip2": (hf.Siglip2ImageProcessor(max_num_patches=24, patch_size=8), {}, {}),
        "pix2struct": (hf.Pix2StructImageProcessor(max_patches=40), {}, {}),
        "lfm2_vl": (
            hf.Lfm2VlImageProcessor(
                encoder_patch_size=8, max_tiles=6, tile_size=32, min_image_tokens=1, max_image_tokens=9
            ),
            {"image_token": "<image>"},
            {},
        ),
    }


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("name", list(cases()))
def test_pixels_are_the_processors(tmp_path: Path, name: str, version: int) -> None:
    processor, named, model = cases()[name]
    if version == 4:
        processor.save_pretrained(tmp_path)
    else:
        (tmp_path / "processor_config.json").write_text(
            json.dumps({"image_processor": json.loads(processor.to_json_string())})
        )
    (tmp_path / "config.json").write_text(json.dumps(model))
    family = get_family(name, tokenizer=tokenizer(**named), checkpoint=tmp_path)
    key = family.media["image"].key
    for photo in PHOTOS[:2]:
        theirs = processor([tensor(photo)], return_tensors="pt")
        same(batch(family, [[image(photo), "."]]), theirs, [key])


def test_what_is_given_wins_and_mistakes_are_named(tmp_path: Path) -> None:
    words = tokenizer(image_token="<image>")
    hf.CLIPImageProcessor(size={"shortest_edge": 70}).save_pretrained(tmp_path)
    assert (
        get_family("llava", tokenizer=words, checkpoint=tmp_path, image={"size": 28})
        .media["image"]
        .view.describe()["size"]
        == 28
    )
    with pytest.raises(SpecError, match=r"no processor_config.json"):
        get_family("llava", tokenizer=words, checkpoint=tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(SpecError, match=r"config.json"):
        get_family("llava", tokenizer=words, checkpoint=tmp_path)
    with pytest.raises(SpecError, match="family llava: takes no audio, only image"):
        get_family("llava", tokenizer=words, audio={"n_mels": 80})


def test_whisper_reads_its_extractor(tmp_path: Path) -> None:
    hf.WhisperFeatureExtractor(feature_size=128, chunk_length=10).save_pretrained(tmp_path)
    family = get_family("whisper", tokenizer=tokenizer(), checkpoint=tmp_path)
    view = family.media["audio"].view.describe()
    assert (view["n_mels"], view["padded"]) == (128, 160_000)
