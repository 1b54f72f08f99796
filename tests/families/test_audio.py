"""The families that hear against their Hugging Face processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from mmdata.errors import SpecError
from mmdata.families import get_family
from mmdata.types import Media
from tests.families.processors import Medium, batch, same, tokenizer

LENGTHS = [16_000, 7_123, 400_001, 500_000]


def sound(samples: int) -> Medium:
    """A tone that swells, at 16 kHz."""
    at = np.arange(samples) / 16_000
    wave = (np.sin(2 * np.pi * (200 + 50 * at) * at) * np.minimum(1, at)).astype(np.float32)
    return Media(kind="audio", samples=samples, sample_rate=16_000, channels=1, seconds=samples / 16_000), wave


@pytest.mark.parametrize("n_mels", [80, 128])
def test_whisper(n_mels: int) -> None:
    family = get_family("whisper", tokenizer=tokenizer(), audio={"n_mels": n_mels})
    extract = hf.WhisperFeatureExtractor(feature_size=n_mels)
    sounds = [sound(samples) for samples in LENGTHS]
    theirs = extract([wave for _, wave in sounds], sampling_rate=16_000, return_tensors="pt")
    ours = batch(family, [[heard, "said"] for heard in sounds])
    same(ours, theirs, ["input_features"])


NAMED = {"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}


def test_qwen2_audio() -> None:
    words = tokenizer(**NAMED)
    processor = hf.Qwen2AudioProcessor(hf.WhisperFeatureExtractor(feature_size=128), words)
    family = get_family("qwen2_audio", tokenizer=words)
    for samples in LENGTHS:
        heard = sound(samples)
        theirs = processor(
            text=["hear <|audio_bos|><|AUDIO|><|audio_eos|> well"],
            audio=[heard[1]],
            sampling_rate=16_000,
            return_tensors="pt",
            add_special_tokens=False,
        )
        ours = batch(family, [["hear ", heard, " well"]])
        same(ours, theirs, ["input_ids", "input_features", "feature_attention_mask"])


def test_qwen2_5_omni_hears() -> None:
    words = tokenizer(
        **NAMED,
        image_token="<|IMAGE|>",
        video_token="<|VIDEO|>",
        vision_bos_token="<|vision_bos|>",
        vision_eos_token="<|vision_eos|>",
    )
    family = get_family("qwen2_5_omni", tokenizer=words)
    processor = hf.Qwen2_5OmniProcessor(
        hf.Qwen2VLImageProcessor(),
        hf.Qwen2VLVideoProcessor(),
        hf.WhisperFeatureExtractor(feature_size=128),
        words,
    )
    heard = sound(48_500)
    theirs = processor(text=["hear <|audio_bos|><|AUDIO|><|audio_eos|> well"], audio=[heard[1]], return_tensors="pt")
    ours = batch(family, [["hear ", heard, " well"]])
    same(ours, theirs, ["input_ids", "input_features", "feature_attention_mask"])
    assert torch.equal(ours["position_ids"], torch.arange(ours["input_ids"].shape[1]).expand(4, 1, -1))


@pytest.mark.parametrize("name", ["qwen2_audio", "qwen2_5_omni"])
def test_long_sounds_are_heard_in_pieces(name: str) -> None:
    """Each piece is a clip of the encoder; a sound's placeholders are those of all its pieces."""
    words = tokenizer(**NAMED, image_token="<|IMAGE|>", video_token="<|VIDEO|>")
    chunk = {"chunk": 160_000, "overlap": 16_000, "padded": 160_000}
    family = get_family(name, tokenizer=words, audio=chunk)
    sounds = [sound(400_000), sound(90_001)]
    ours = batch(family, [[heard, "."] for heard in sounds])
    pieces = [sounds[0][1][at : at + 160_000] for at in (0, 144_000, 288_000)] + [sounds[1][1]]
    extract = hf.WhisperFeatureExtractor(feature_size=128, chunk_length=10)
    theirs = extract(pieces, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    theirs["feature_attention_mask"] = theirs["attention_mask"]
    same(ours, theirs, ["input_features", "feature_attention_mask"])
    each = [((n - 1) // 2 + 1 - 2) // 2 + 1 for n in theirs["attention_mask"].sum(-1).tolist()]
    assert int((ours["input_ids"] == words.convert_tokens_to_ids("<|AUDIO|>")).sum()) == sum(each)


@pytest.mark.parametrize(
    "audio", [{"trim": True}, {"padded": None}, {"pool": 4}, {"prosody": True}, {"tokens": "voxtral"}]
)
@pytest.mark.parametrize("name", ["whisper", "qwen2_audio", "qwen2_5_omni"])
def test_what_an_encoder_does_not_take_is_refused(name: str, audio: dict[str, Any]) -> None:
    words = tokenizer(**NAMED, image_token="<|IMAGE|>", video_token="<|VIDEO|>")
    with pytest.raises(SpecError, match=f"family {name}: (audio: |view mel: )"):
        get_family(name, tokenizer=words, audio=audio)
    with pytest.raises(SpecError, match="audio: chunk: a text belongs to one clip"):
        get_family("whisper", tokenizer=words, audio={"chunk": 480_000})


def test_qwen2_5_omni_limits_videos_itself(tmp_path: Path) -> None:
    """Whatever a checkpoint's files say, which are made for pictures."""
    words = tokenizer(
        **NAMED,
        image_token="<|IMAGE|>",
        video_token="<|VIDEO|>",
        vision_bos_token="<|vision_bos|>",
        vision_eos_token="<|vision_eos|>",
    )
    written = {"min_pixels": 3136, "max_pixels": 12_845_056, "image_processor_type": "Qwen2VLImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**written, "feature_size": 128}))
    processor = hf.Qwen2_5OmniProcessor(
        hf.Qwen2VLImageProcessor.from_pretrained(tmp_path),
        hf.Qwen2VLVideoProcessor.from_pretrained(tmp_path),
        hf.WhisperFeatureExtractor(feature_size=128),
        words,
    )
    frames = torch.zeros((4, 3, 900, 1200), dtype=torch.uint8)
    described = {"fps": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3], "duration": 2.0}
    text = ["<|vision_bos|><|VIDEO|><|vision_eos|>"]
    theirs = processor(text=text, videos=[frames], video_metadata=[described], return_tensors="pt")
    view = get_family("qwen2_5_omni", tokenizer=words, checkpoint=tmp_path).media["video"].view
    plan = view.plan(Media(kind="video", height=900, width=1200, frames=4, fps=2.0, seconds=2.0))
    assert [list(plan.grid or ())] == theirs["video_grid_thw"].tolist()
