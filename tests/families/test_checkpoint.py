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
from tests.families.test_qwen import clip
from tests.families.test_videos import MARKS, metadata

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


STATISTICS: dict[str, Any] = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "resample": 3}
CLIP = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": True, "crop_size": 56, **STATISTICS}
SQUARE = {"height": 56, "width": 56}
SIGLIP = {"image_processor_type": "SiglipImageProcessor", "size": SQUARE, **STATISTICS}


@pytest.mark.parametrize(
    "files",
    [
        CLIP | {"size": 56},
        CLIP | {"size": {"shortest_edge": 70}},
        CLIP | {"size": {"height": 70, "width": 70}},  # squashed, then cropped
        CLIP | {"size": SQUARE, "do_center_crop": False},
        SIGLIP,
        SIGLIP | {"do_center_crop": None, "crop_size": None, "image_mean": 0.5, "image_std": 0.25},
        SIGLIP | {"do_normalize": False},
        SIGLIP | {"rescale_factor": 1 / 127.5},
        SIGLIP | {"do_rescale": False},
        {"image_processor_type": "ViTImageProcessor", "size": 56, **STATISTICS},
        CLIP | {"size": 70},
        CLIP | {"size": 70, "image_processor_type": "BitImageProcessor"},
        CLIP | {"size": 70, "image_processor_type": "DeiTImageProcessor"},  # as published: squashed, then cropped
        CLIP | {"size": 70, "image_processor_type": None, "feature_extractor_type": "DeiTFeatureExtractor"},
        CLIP | {"size": 70, "image_processor_type": "BeitImageProcessor"},
        CLIP | {"size": 70, "image_processor_type": "FlavaImageProcessor"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["llava", "native_fixed"])
def test_squares_are_made_as_the_files_say(tmp_path: Path, name: str, files: dict[str, Any]) -> None:
    """Published LLaVA checkpoints have CLIP's processor or SigLIP's."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(files))
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"patch_size": 14}}))
    words = tokenizer(image_token="<image>", video_token="<video>", audio_token="<audio>")
    family = get_family(name, tokenizer=words, checkpoint=tmp_path)
    kind = files["image_processor_type"] or files["feature_extractor_type"].replace(
        "FeatureExtractor", "ImageProcessor"
    )
    processor = getattr(hf, kind).from_pretrained(tmp_path)
    for photo in PHOTOS:
        theirs = processor([tensor(photo)], return_tensors="pt")
        atol = 1e-3 if files.get("do_rescale") is False else 1e-5  # values in the hundreds
        same(batch(family, [[image(photo), "."]]), theirs, ["pixel_values"], atol)


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        ("llava", CLIP | {"do_resize": False}, "do_resize: false"),
        ("llava", CLIP | {"size": {"shortest_edge": 70}, "do_center_crop": False}, "are no squares"),
        ("llava", CLIP | {"size": 70, "do_center_crop": False}, "are no squares"),
        ("llava", SIGLIP | {"size": {"height": 56, "width": 84}}, "size: 56 x 84"),
        ("llava", SIGLIP | {"image_mean": [0.5]}, r"image_mean: \[0.5\]"),
        ("llava", {"size": SQUARE, "rescale_factor": 1.0}, "rescale_factor"),
        ("llava", CLIP | {"size": 56, "do_pad": True, "do_normalize": False}, "padded with image_mean"),
        (
            "llava_onevision",
            {"rescale_factor": 1 / 127.5, "image_mean": 0.5, "image_std": 0.5},
            "padded with image_mean",
        ),
        ("pix2struct", {"do_normalize": False}, "do_normalize: false"),
        ("pix2struct", {"is_vqa": True}, "is_vqa: true"),
    ],
)
def test_what_no_view_does_is_refused(tmp_path: Path, name: str, files: dict[str, Any], said: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(files))
    with pytest.raises(SpecError, match=f"family {name}: .*{said}"):
        get_family(name, tokenizer=every_mark(), checkpoint=tmp_path)


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_tokens_beside_the_patches_are_refused(tmp_path: Path, name: str) -> None:
    for strategy, extra, fits in [("full", 0, True), ("full", 1, False), ("default", 1, True), ("default", 0, False)]:
        processor = {"vision_feature_select_strategy": strategy, "num_additional_image_tokens": extra}
        (tmp_path / "processor_config.json").write_text(json.dumps(processor))
        if fits:
            get_family(name, tokenizer=tokenizer(image_token="<image>"), checkpoint=tmp_path)
        else:
            with pytest.raises(SpecError, match="vision_feature_select_strategy"):
                get_family(name, tokenizer=tokenizer(image_token="<image>"), checkpoint=tmp_path)


def test_a_processor_alone_says_how_many_tokens_a_tile_has(tmp_path: Path) -> None:
    """SmolVLM2-2.2B's processor, without the model's `config.json`."""
    hf.SmolVLMImageProcessor(size={"longest_edge": 1536}, max_image_size={"longest_edge": 384}).save_pretrained(
        tmp_path
    )
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_seq_len": 81}))
    words = tokenizer(**SPLIT, video_token="<video>")
    plan = get_family("smolvlm", tokenizer=words, checkpoint=tmp_path).media["image"].view.plan(image(PHOTOS[0])[0])
    assert plan.tokens == 81 * plan.shape[0]


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


def test_whispers_chunk_length_decides_and_other_spectrograms_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    written = json.loads(hf.WhisperFeatureExtractor(chunk_length=30).to_json_string())
    file.write_text(json.dumps(written | {"chunk_length": 10, "n_samples": 480_000}))
    assert hf.WhisperFeatureExtractor.from_pretrained(tmp_path).n_samples == 160_000
    family = get_family("whisper", tokenizer=tokenizer(), checkpoint=tmp_path)
    assert family.media["audio"].view.describe()["padded"] == 160_000
    for name, value in [("sampling_rate", 8_000), ("n_fft", 512), ("hop_length", 320), ("dither", 1e-5)]:
        file.write_text(json.dumps(written | {name: value}))
        with pytest.raises(SpecError, match=f"family whisper: {name}: "):
            get_family("whisper", tokenizer=tokenizer(), checkpoint=tmp_path)


LEFT_OUT: dict[str, tuple[Any, dict[str, Any]]] = {
    "llava_next": (hf.LlavaNextImageProcessor, {"image_grid_pinpoints": [[224, 448]]}),
    "llava_onevision": (hf.LlavaOnevisionImageProcessor, {}),
    "internvl": (hf.GotOcr2ImageProcessor, {"crop_to_patches": True, "max_patches": 2}),
    "idefics3": (hf.Idefics3ImageProcessor, {}),
    "smolvlm": (hf.SmolVLMImageProcessor, {}),
    "paligemma": (hf.SiglipImageProcessor, {}),
    "pixtral": (hf.PixtralImageProcessor, {}),
    "qwen2_vl": (hf.Qwen2VLImageProcessor, {"min_pixels": 3136}),
    "qwen2_5_vl": (hf.Qwen2VLImageProcessor, {"max_pixels": 9408}),
    "qwen3_vl": (hf.Qwen2VLImageProcessor, {}),
}
"""Image processor and what a file says of it, by family."""


@pytest.mark.parametrize("name", list(LEFT_OUT))
def test_what_a_file_leaves_out_is_as_in_the_class(tmp_path: Path, name: str) -> None:
    """And not as in the family's best-known checkpoint."""
    kind, files = LEFT_OUT[name]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind.__name__, **files}))
    family = get_family(name, tokenizer=every_mark(), checkpoint=tmp_path)
    theirs = kind.from_pretrained(tmp_path)([tensor(PHOTOS[0])], return_tensors="pt")
    same(batch(family, [[image(PHOTOS[0]), "."]]), theirs, [family.media["image"].key])


SAMPLED: list[tuple[str, Any, dict[str, Any]]] = [
    ("qwen2_vl", hf.Qwen2VLVideoProcessor, {"fps": 2, "min_frames": 2, "max_frames": 4, "patch_size": 16}),
    ("qwen2_vl", hf.Qwen2VLVideoProcessor, {"num_frames": 7, "min_pixels": 784, "max_pixels": 9408}),
    ("qwen2_5_vl", hf.Qwen2VLVideoProcessor, {"fps": 3, "cap_pixels_per_frame": True, "max_video_tokens": 16}),
    ("qwen3_vl", hf.Qwen3VLVideoProcessor, {"max_frames": 6}),
    ("smolvlm", hf.SmolVLMVideoProcessor, {"video_sampling": {"fps": 2, "max_frames": 3, "video_size": 40}}),
    ("internvl", hf.InternVLVideoProcessor, {"num_frames": 3, "initial_shift": False}),
    ("llava_onevision", hf.LlavaOnevisionVideoProcessor, {"num_frames": 3}),
]


@pytest.mark.parametrize(("name", "kind", "files"), SAMPLED, ids=str)
def test_videos_are_sampled_as_the_file_says(tmp_path: Path, name: str, kind: Any, files: dict[str, Any]) -> None:
    files = {"video_processor_type": kind.__name__, **files}
    if name == "smolvlm":
        files["video_sampling"]["video_size"] = {"longest_edge": 40}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(files))
    family = get_family(name, tokenizer=every_mark(), checkpoint=tmp_path)
    facts, frames = clip(11)
    theirs = kind.from_pretrained(tmp_path)(
        [frames], video_metadata=metadata(11), do_sample_frames=True, return_tensors="pt"
    )
    key = family.media["video"].key
    plan = family.media["video"].view.plan(facts)
    ours = batch(family, [[(facts, frames[list(plan.frames)]), "."]])
    theirs = theirs[key] if key in theirs else theirs["pixel_values_videos"][0]
    same(ours, {key: theirs}, [key])


def test_number_and_rate_stand_in_for_each_other(tmp_path: Path) -> None:
    facts, _ = clip(11)

    def chosen(name: str, **video: Any) -> tuple[int, ...]:
        given = get_family(name, tokenizer=every_mark(), video=video, checkpoint=tmp_path)
        return given.media["video"].view.plan(facts).frames

    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps({"fps": 1, "initial_shift": False}))
    assert chosen("qwen2_vl", num_frames=4) == (0, 2, 5, 8)
    assert chosen("qwen3_vl", rule="tsn", num_frames=2) == (2, 8)
    assert chosen("internvl") == chosen("internvl", fps=1.0) == (0, 5)
    assert chosen("internvl", num_frames=2, rule="uniform") == (0, 5)
    with pytest.raises(SpecError, match="give num_frames or fps, not both"):
        chosen("qwen2_vl", num_frames=4, fps=2.0)


def test_tiles_and_whole_pictures_are_of_one_size(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 336}, "crop_size": 224}))
    with pytest.raises(SpecError, match="size 336 with crop_size 224"):
        get_family("llava_next", tokenizer=every_mark(), checkpoint=tmp_path)


def every_mark() -> Any:
    return tokenizer(**SPLIT, **{f"mark_{at}": mark for at, mark in enumerate(MARKS) if mark not in SPLIT.values()})
