"""Models of the installed transformers with the smallest sensible configurations and random weights."""

from __future__ import annotations

import functools

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Pix2StructVisionConfig,
    Pix2StructVisionModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLModel,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLModel,
    Qwen3VLConfig,
    Qwen3VLModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)

IDS = {"image_token_id": 100, "video_token_id": 101, "vision_start_token_id": 102, "vision_end_token_id": 103}
TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
}


@functools.cache
def qwen2_vl() -> Qwen2VLModel:
    torch.manual_seed(0)
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1}
    return Qwen2VLModel(Qwen2VLConfig(text_config=TEXT, vision_config=vision, **IDS)).eval()


@functools.cache
def qwen2_5_vl(tokens_per_second: int = 2) -> Qwen2_5_VLModel:
    torch.manual_seed(0)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "out_hidden_size": 32,
        "num_heads": 2,
        "fullatt_block_indexes": [1],
        "tokens_per_second": tokens_per_second,
    }
    return Qwen2_5_VLModel(Qwen2_5_VLConfig(text_config=TEXT, vision_config=vision, **IDS)).eval()


@functools.cache
def qwen2_5_omni() -> Qwen2_5OmniThinkerForConditionalGeneration:
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 32}
    vision = {**small, "depth": 1, "out_hidden_size": 32, "num_heads": 2, "fullatt_block_indexes": [0]}
    audio = {
        "d_model": 32,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "output_dim": 32,
        "num_mel_bins": 16,
    }
    config = Qwen2_5OmniThinkerConfig(text_config=TEXT, vision_config=vision, audio_config=audio)
    for name, token in {**IDS, "audio_token_id": 104, "audio_start_token_id": 105, "audio_end_token_id": 106}.items():
        setattr(config, name, token)
    return Qwen2_5OmniThinkerForConditionalGeneration(config).eval()


@functools.cache
def qwen3_vl() -> Qwen3VLModel:
    torch.manual_seed(0)
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "out_hidden_size": 32,
        "num_heads": 2,
        "num_position_embeddings": 144,
        "deepstack_visual_indexes": [0],
    }
    return Qwen3VLModel(Qwen3VLConfig(text_config=TEXT, vision_config=vision, **IDS)).eval()


@functools.cache
def siglip2() -> Siglip2VisionModel:
    torch.manual_seed(0)
    config = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Siglip2VisionModel(Siglip2VisionConfig(num_patches=64, **config)).eval()


@functools.cache
def pix2struct() -> Pix2StructVisionModel:
    torch.manual_seed(0)
    config = {"hidden_size": 32, "patch_embed_hidden_size": 768, "d_ff": 32, "d_kv": 16, "seq_len": 4096}
    return Pix2StructVisionModel(Pix2StructVisionConfig(num_hidden_layers=1, num_attention_heads=2, **config)).eval()


@functools.cache
def pixtral() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    vision = {
        "model_type": "pixtral",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 16,
        "image_size": 1024,
    }
    text = {
        "model_type": "mistral",
        **{key: TEXT[key] for key in TEXT if key != "rope_parameters"},
    }
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=100,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaForConditionalGeneration(config).eval()
