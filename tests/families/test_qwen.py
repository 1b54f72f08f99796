"""The Qwen-VL families against their Hugging Face processors and position rules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from mmdata.errors import SpecError
from mmdata.families import get_family
from mmdata.families._family import media_ids
from mmdata.types import Media, Packets
from tests.dataset_fixture import photograph
from tests.families.processors import PHOTOS, batch, image, same, tensor, tokenizer
from tests.views.tiny_models import qwen2_5_vl, qwen2_vl, qwen3_vl

QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
CLIP = torch.stack([tensor(photograph("china")[at : at + 90, 3 * at : 3 * at + 120]) for at in range(0, 110, 10)])
"""11 frames of 90 x 120, at 5 frames a second."""
FPS = 5.0


def clip(frames: int) -> tuple[Media, torch.Tensor]:
    facts = Media(kind="video", height=90, width=120, frames=frames, fps=FPS, seconds=frames / FPS)
    return facts, CLIP[:frames]


def qwen(version: str) -> tuple[Any, Any]:
    words = tokenizer(**QWEN)
    images = hf.Qwen2VLImageProcessor
    patch = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3} if version == "3" else {}
    small = {"shortest_edge": 56 * 56, "longest_edge": 140 * 140}
    if version == "3":
        processor = hf.Qwen3VLProcessor(
            images(size=small, **patch),
            words,
            hf.Qwen3VLVideoProcessor(size={"shortest_edge": 4096, "longest_edge": 200_000}),
        )
    else:
        kind = hf.Qwen2VLProcessor if version == "2" else hf.Qwen2_5_VLProcessor
        processor = kind(images(size=small), words, hf.Qwen2VLVideoProcessor(size=small))
    name = {"2": "qwen2_vl", "2.5": "qwen2_5_vl", "3": "qwen3_vl"}[version]
    limits = {"min_pixels": 56 * 56, "max_pixels": 140 * 140}
    video = {"min_pixels": 4096, "max_pixels": 200_000, "clock": "index"} if version == "3" else limits
    return processor, get_family(name, tokenizer=words, image=limits, video=video)


@pytest.mark.parametrize("version", ["2", "2.5", "3"])
def test_qwen_images(version: str) -> None:
    processor, family = qwen(version)
    for photo in PHOTOS:
        theirs = processor(
            text=["a <|vision_start|><|image_pad|><|vision_end|> of what"],
            images=[tensor(photo)],
            return_tensors="pt",
            add_special_tokens=False,
        )
        ours = batch(family, [["a ", image(photo), " of what"]])
        same(ours, theirs, ["input_ids", "pixel_values", "image_grid_thw", "mm_token_type_ids"])


def seen(processor: Any, frames: int) -> Any:
    described = {
        "fps": FPS,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "duration": frames / FPS,
    }
    return processor(
        text=["a <|vision_start|><|video_pad|><|vision_end|> of what"],
        videos=[CLIP[:frames]],
        video_metadata=[described],
        do_sample_frames=True,
        fps=2.0,
        return_tensors="pt",
        add_special_tokens=False,
    )


@pytest.mark.parametrize("version", ["2", "2.5", "3"])
@pytest.mark.parametrize("frames", [4, 7, 11])
def test_qwen_videos(version: str, frames: int) -> None:
    processor, family = qwen(version)
    facts, _ = clip(frames)
    plan = family.media["video"].view.plan(facts)
    theirs = seen(processor, frames)
    ours = batch(family, [["a ", (facts, CLIP[list(plan.frames)]), " of what"]])
    same(ours, theirs, ["pixel_values_videos", "video_grid_thw"])
    if version == "3":
        # transformers 5.23 leaves the template's own pair of markers around the whole video; checkpoints never saw it.
        words = family.tokenizer
        text = words.decode(theirs["input_ids"][0]).replace("a <|vision_start|><", "a <")
        text = text.replace("<|vision_end|><|vision_end|>", "<|vision_end|>")
        assert words.decode(ours["input_ids"][0]) == text
    else:
        same(ours, theirs, ["input_ids", "mm_token_type_ids"])
    if version == "2.5":
        same(ours, theirs, ["second_per_grid_ts"])


@pytest.mark.parametrize("version", ["2", "2.5", "3"])
def test_positions_are_those_of_the_model_and_start_anew_in_every_segment(version: str) -> None:
    _, family = qwen(version)
    family = replace(family, mrope="transformers")
    facts, _ = clip(11)
    frames = CLIP[list(family.media["video"].view.plan(facts).frames)]
    samples = [["a ", image(PHOTOS[0]), " of what"], ["see ", (facts, frames), " and ", image(PHOTOS[1])]]
    packed = batch(family, [[*sample, "."] for sample in samples])["position_ids"]
    at = 0
    for sample in samples:
        alone = batch(family, [[*sample, "."]])
        length = alone["input_ids"].shape[1]
        assert torch.equal(packed[:, 0, at : at + length], alone["position_ids"][:, 0])
        at += length
        words = family.tokenizer
        names = {"image_token_id": QWEN["image_token"], "video_token_id": QWEN["video_token"]}
        model = {"2": qwen2_vl, "2.5": qwen2_5_vl, "3": qwen3_vl}[version]()
        ids = {name: words.convert_tokens_to_ids(token) for name, token in names.items()}
        assert torch.equal(alone["position_ids"][0, 0], torch.arange(length))
        grids = {
            name: alone[name] for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts") if name in alone
        }
        with patched(model.config, **ids):
            theirs, _ = model.get_rope_index(alone["input_ids"], mm_token_type_ids=alone["mm_token_type_ids"], **grids)
        assert torch.equal(alone["position_ids"][1:, 0], theirs[:, 0]), version
    assert at == packed.shape[-1]


@pytest.mark.parametrize("version", ["2", "2.5", "3"])
@pytest.mark.parametrize("merge", [1, 4])
def test_positions_follow_the_merge(version: str, merge: int) -> None:
    words = tokenizer(**QWEN)
    name, patch = {"2": ("qwen2_vl", 14), "2.5": ("qwen2_5_vl", 14), "3": ("qwen3_vl", 16)}[version]
    given = {"merge": merge, "min_pixels": 64 * patch**2, "max_pixels": 64 * patch**2}
    family = get_family(name, tokenizer=words, image=given, mrope="transformers")
    ours = batch(family, [["a ", image(PHOTOS[0]), " of what and ", image(PHOTOS[1]), "."]])
    model = {"2": qwen2_vl, "2.5": qwen2_5_vl, "3": qwen3_vl}[version]()
    with patched(model.config.vision_config, spatial_merge_size=merge):
        theirs, _ = model.get_rope_index(
            ours["input_ids"], mm_token_type_ids=ours["mm_token_type_ids"], image_grid_thw=ours["image_grid_thw"]
        )
    assert torch.equal(ours["position_ids"][1:, 0], theirs[:, 0])
    with pytest.raises(SpecError, match=f"merge: {merge} for images and 2 for videos"):
        get_family(name, tokenizer=words, image={"merge": merge}, video={"merge": 2})


def test_time_follows_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"tokens_per_second": 4}}))
    facts, frames = clip(11)
    for checkpoint, step in [(None, 2), (tmp_path, 4)]:
        family = get_family("qwen2_5_vl", tokenizer=tokenizer(**QWEN), checkpoint=checkpoint)
        plan = family.media["video"].view.plan(facts)
        ours = batch(family, [[(facts, frames[list(plan.frames)]), "."]])
        seconds = 2 * plan.seconds / len(plan.frames)
        time = ours["position_ids"][1, 0, 1 : 1 + plan.tokens]
        assert time.max() - time.min() == int((plan.grid[0] - 1) * seconds * step)


def recorded() -> tuple[Media, Media]:
    """A clip by a clock that begins with it, and by one that is ten hours old."""
    packets = Packets(time_base=(1, 10), pts=np.arange(11) * 2, flags=np.ones(11, np.uint8))
    facts, _ = clip(11)
    return replace(facts, packets=packets), replace(facts, packets=replace(packets, pts=packets.pts + 360_000))


def test_times_in_the_text_count_from_the_first_frame() -> None:
    family = get_family("qwen3_vl", tokenizer=tokenizer(**QWEN))
    early, late = (family.media["video"].view.plan(facts) for facts in recorded())
    assert late.times[0] == 36_000.0
    assert media_ids(family, late) == media_ids(family, early)


@contextmanager
def patched(config: Any, **values: int) -> Iterator[None]:
    before = {name: getattr(config, name) for name in values}
    for name, value in values.items():
        setattr(config, name, value)
    yield
    for name, value in before.items():
        setattr(config, name, value)
