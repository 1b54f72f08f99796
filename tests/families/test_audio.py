"""The families that hear against their Hugging Face processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf

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
