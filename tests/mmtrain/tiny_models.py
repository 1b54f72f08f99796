"""Hugging Face models of every family, small and with random weights, and samples as our families make them for each.

One place for all trainer tests. `FAMILIES` are those that pack; `make(name)` is the family's model in float32, a new
one at each call and always the same; `samples(name)` are its samples alone, of one segment each: a picture between
words, two pictures, words alone, and a video or a sound where the family takes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import transformers as hf

from mmdata.families import Family, get_family
from mmdata.families._family import plan_media
from mmdata.types import Media, Packed
from mmtrain.models import build, family_of
from mmtrain.models.spec import NativeSpec, NavitSpec, TinyLanguageSpec, VarlenAudioSpec, Views
from tests.families.processors import PHOTOS, Medium, image, packed, tensor, tokenizer

MARKS = (
    *("<image>", "<video>", "<audio>", "<IMG_CONTEXT>", "<img>", "</img>", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
    *("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"),
    *("<|IMAGE|>", "<|VIDEO|>", "<|vision_bos|>", "<|vision_eos|>"),
    *("<image_soft_token>", "<start_of_image>", "<end_of_image>", "<fake_token_around_image>", "<global-img>"),
    *("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"),
)
HIDDEN = 32


@functools.cache
def words() -> Any:
    """A tokenizer that has the special tokens of every family."""
    return tokenizer(**{f"mark_{at}": mark for at, mark in enumerate(MARKS)})


def token(mark: str) -> int:
    return int(words().convert_tokens_to_ids(mark))


def text(**more: Any) -> dict[str, Any]:
    """Two layers of a decoder."""
    return {
        "vocab_size": len(words()),
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "pad_token_id": words().pad_token_id,
        **more,
    }


def vision(**more: Any) -> dict[str, Any]:
    """Two layers of a tower over 28 x 28 pixels."""
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        **more,
    }


MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}}
QWEN_VISION = {"depth": 2, "hidden_size": HIDDEN, "num_heads": 2}
GRID = [[28, 56], [56, 28], [56, 56]]


def qwen_ids() -> dict[str, int]:
    return {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
    }


def llama() -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**text()))


def llava(**more: Any) -> Any:
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**vision()),
            text_config=hf.LlamaConfig(**text(**more)),
            image_token_index=token("<image>"),
            vision_feature_layer=-1,
        )
    )


def llava_next() -> Any:
    return hf.LlavaNextForConditionalGeneration(
        hf.LlavaNextConfig(
            vision_config=hf.CLIPVisionConfig(**vision()),
            text_config=hf.LlamaConfig(**text()),
            image_token_index=token("<image>"),
            image_grid_pinpoints=GRID,
            vision_feature_layer=-1,
        )
    )


def llava_onevision() -> Any:
    return hf.LlavaOnevisionForConditionalGeneration(
        hf.LlavaOnevisionConfig(
            vision_config=hf.SiglipVisionConfig(**vision()),
            text_config=hf.Qwen2Config(**text()),
            image_token_index=token("<image>"),
            video_token_index=token("<video>"),
            image_grid_pinpoints=GRID,
            vision_aspect_ratio="anyres_max_2",
        )
    )


def idefics3() -> Any:
    return hf.Idefics3ForConditionalGeneration(
        hf.Idefics3Config(
            vision_config=vision(),
            text_config=hf.LlamaConfig(**text()),
            scale_factor=2,
            image_token_id=token("<image>"),
        )
    )


def smolvlm() -> Any:
    return hf.SmolVLMForConditionalGeneration(
        hf.SmolVLMConfig(
            vision_config=vision(image_size=32, patch_size=8),
            text_config=hf.LlamaConfig(**text()),
            scale_factor=4,
            image_token_id=token("<image>"),
        )
    )


def internvl() -> Any:
    sides = {"image_size": [28, 28], "patch_size": [14, 14]}
    return hf.InternVLForConditionalGeneration(
        hf.InternVLConfig(
            vision_config=vision(**sides),
            text_config=hf.Qwen2Config(**text()),
            image_token_id=token("<IMG_CONTEXT>"),
            image_seq_length=1,
        )
    )


def qwen2_vl() -> Any:
    tower = {"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 2, "mlp_ratio": 1}
    return hf.Qwen2VLForConditionalGeneration(
        hf.Qwen2VLConfig(text_config=text(**MROPE), vision_config=tower, **qwen_ids())
    )


def qwen2_5_vl() -> Any:
    tower = {**QWEN_VISION, "intermediate_size": 48, "out_hidden_size": HIDDEN, "fullatt_block_indexes": [1]}
    tower["tokens_per_second"] = 2  # as published; the class has 4
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(text_config=text(**MROPE), vision_config=tower, **qwen_ids())
    )


def qwen3_vl() -> Any:
    tower = {
        **QWEN_VISION,
        "intermediate_size": 48,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 144,
        "deepstack_visual_indexes": [0],
    }
    return hf.Qwen3VLForConditionalGeneration(
        hf.Qwen3VLConfig(text_config=text(**MROPE), vision_config=tower, **qwen_ids())
    )


def qwen3_vl_moe() -> Any:
    """Four experts in one tensor, two of them for each token."""
    tower = {
        **QWEN_VISION,
        "intermediate_size": 48,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 144,
        "deepstack_visual_indexes": [0],
    }
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
    return hf.Qwen3VLMoeForConditionalGeneration(
        hf.Qwen3VLMoeConfig(text_config=text(**MROPE, **experts), vision_config=tower, **qwen_ids())
    )


def mixtral() -> Any:
    return hf.MixtralForCausalLM(hf.MixtralConfig(**text(), num_local_experts=4, num_experts_per_tok=2))


def qwen2_audio() -> Any:
    tower = {"d_model": HIDDEN, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    return hf.Qwen2AudioForConditionalGeneration(
        hf.Qwen2AudioConfig(
            audio_config=tower, text_config=hf.Qwen2Config(**text()), audio_token_index=token("<|AUDIO|>")
        )
    )


def pixtral() -> Any:
    tower = {"model_type": "pixtral", **vision(image_size=128, patch_size=16)}
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(
            vision_config=tower,
            text_config={"model_type": "mistral", **text()},
            image_token_index=token("[IMG]"),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    )


def mistral3() -> Any:
    tower = {"model_type": "pixtral", **vision(image_size=128, patch_size=16)}
    return hf.Mistral3ForConditionalGeneration(
        hf.Mistral3Config(
            vision_config=tower,
            text_config={"model_type": "mistral", **text()},
            image_token_index=token("[IMG]"),
            spatial_merge_size=2,
        )
    )


def qwen2_5_omni() -> Any:
    tower = {**QWEN_VISION, "intermediate_size": 48, "out_hidden_size": HIDDEN, "fullatt_block_indexes": [1]}
    ear = {"d_model": HIDDEN, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    return hf.Qwen2_5OmniThinkerForConditionalGeneration(
        hf.Qwen2_5OmniThinkerConfig(
            text_config=text(**MROPE),
            vision_config=tower,
            audio_config={**ear, "output_dim": HIDDEN, "num_mel_bins": 128},
            image_token_id=token("<|IMAGE|>"),
            video_token_id=token("<|VIDEO|>"),
            audio_token_id=token("<|AUDIO|>"),
            vision_start_token_id=token("<|vision_bos|>"),
            vision_end_token_id=token("<|vision_eos|>"),
            audio_start_token_id=token("<|audio_bos|>"),
            audio_end_token_id=token("<|audio_eos|>"),
        )
    )


NATIVE = NativeSpec(
    kind="native",
    vision=NavitSpec(hidden=HIDDEN, heads=2, patch=8, merge=2),
    audio=VarlenAudioSpec(hidden=HIDDEN, heads=2),
    language=TinyLanguageSpec(hidden=HIDDEN, heads=2, kv_heads=1),
    views=Views(image={"min_pixels": 256, "max_pixels": 4096}, video={"min_pixels": 256, "max_pixels": 2048}),
)


def native() -> Any:
    return build(NATIVE, words(), seed=0)


def gemma3() -> Any:
    decoder = hf.Gemma3TextConfig(
        **text(), sliding_window=6, layer_types=["sliding_attention", "full_attention"], tie_word_embeddings=True
    )
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**vision()),
        text_config=decoder,
        mm_tokens_per_image=4,
        image_token_index=token("<image_soft_token>"),
    )
    config.image_token_id = token("<image_soft_token>")
    model = hf.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)  # zeros see nothing
    return model


def paligemma() -> Any:
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**vision(vision_use_head=False)),
        text_config=hf.GemmaConfig(**text()),
        image_token_index=token("<image>"),
        projection_dim=HIDDEN,
    )
    return hf.PaliGemmaForConditionalGeneration(config)


def lfm2_vl() -> Any:
    """Layers of short convolutions, which run over the borders of segments."""
    tower = hf.Siglip2VisionConfig(**{**vision(patch_size=8), "num_patches": 16})
    decoder = hf.Lfm2Config(**text(), layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False)
    return hf.Lfm2VlForConditionalGeneration(
        hf.Lfm2VlConfig(vision_config=tower, text_config=decoder, image_token_id=token("<image>"))
    )


def bloom() -> Any:
    """Its positions count over the whole row, whatever it is told."""
    return hf.BloomForCausalLM(hf.BloomConfig(hidden_size=HIDDEN, n_layer=2, n_head=4, vocab_size=len(words())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """A family with views small enough for a model of no size."""

    build: Callable[[], Any]
    image: dict[str, Any] | None = None
    video: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None
    kinds: tuple[str, ...] = ("image",)
    """Without any it is a language model alone."""
    family: str | None = None
    """Where it has another name than the model."""


_QWEN = {"min_pixels": 56 * 56, "max_pixels": 84 * 84}
FAMILIES = {
    "llava": Tiny(build=llava, image={"size": 28}),
    "llava_next": Tiny(build=llava_next, image={"size": 28, "pinpoints": GRID}),
    "llava_onevision": Tiny(
        build=llava_onevision,
        image={"size": 28, "pinpoints": GRID, "anyres_max": 2, "patch": 14},
        video={"size": 28, "num_frames": 4},
        kinds=("image", "video"),
    ),
    "idefics3": Tiny(build=idefics3, image={"size": 28, "longest_edge": 56, "patch": 14, "pool": 2}),
    "smolvlm": Tiny(
        build=smolvlm,
        image={"size": 32, "longest_edge": 64, "patch": 8},
        video={"num_frames": 3, "longest_edge": 32},
        kinds=("image", "video"),
    ),
    "internvl": Tiny(
        build=internvl,
        image={"size": 28, "max_tiles": 4},
        video={"size": 28, "num_frames": 4},
        kinds=("image", "video"),
    ),
    "qwen2_vl": Tiny(build=qwen2_vl, image=_QWEN, video=_QWEN, kinds=("image", "video")),
    "qwen2_5_vl": Tiny(build=qwen2_5_vl, image=_QWEN, video=_QWEN, kinds=("image", "video")),
    "qwen3_vl": Tiny(
        build=qwen3_vl,
        image={"min_pixels": 64 * 64, "max_pixels": 96 * 96},
        video={"min_pixels": 4096, "max_pixels": 50_000},
        kinds=("image", "video"),
    ),
    "qwen2_audio": Tiny(build=qwen2_audio, kinds=("audio",)),
    "pixtral": Tiny(build=pixtral, image={"size": 64}),
    "native": Tiny(build=native, kinds=("image", "video", "audio")),
}
"""Those that varlen attention packs."""
MASKED = {
    "gemma3": Tiny(build=gemma3, image={"size": 28, "patch": 14, "pool": 1}),
    "paligemma": Tiny(build=paligemma, image={"size": 28}),
}
"""Those that need dense masks for what looks both ways."""
UNSAFE = {
    "lfm2_vl": Tiny(build=lfm2_vl, image={"size": 32, "patch": 8, "max_tiles": 4, "min_tokens": 1, "max_tokens": 9}),
    "bloom": Tiny(build=bloom, kinds=()),
}
"""Those that must not be packed."""
ALSO = {
    "mistral3": Tiny(build=mistral3, image={"size": 64, "merge": 2, "patch": 16}, family="pixtral"),
    "qwen2_5_omni": Tiny(build=qwen2_5_omni, image=_QWEN, video=_QWEN, kinds=("image", "video", "audio")),
}
"""Packed by varlen attention too; the tables that compare each family with its samples alone do not have them."""
EXPERTS = {
    "qwen3_vl_moe": replace(FAMILIES["qwen3_vl"], build=qwen3_vl_moe, family="qwen3_vl"),
    "mixtral": Tiny(build=mixtral, kinds=()),
}
"""Those whose MLPs are experts."""
ALL = {**FAMILIES, **MASKED, **UNSAFE, **ALSO, **EXPERTS, "llama": Tiny(build=llama, kinds=())}

FRAMES = torch.stack([tensor(PHOTOS[0][at : at + 70, at : at + 90]) for at in range(0, 22, 2)])
"""11 frames of 70 x 90, at 5 frames a second."""


def make(name: str, seed: int = 0) -> Any:
    """The family's model, the same for the same seed. Biases and gates that begin at 0 get values: of zeros nothing
    could be seen."""
    torch.manual_seed(seed)
    model = ALL[name].build()
    for parameter in model.parameters():
        if float(parameter.detach().abs().max()) == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@functools.cache
def family(name: str) -> Family:
    """With positions where the installed transformers has them."""
    tiny = ALL[name]
    if not tiny.kinds:
        return Family(name="text", tokenizer=words(), media={})
    if name == "native":
        return family_of(NATIVE, words())
    media = {"image": tiny.image, "video": tiny.video, "audio": tiny.audio}
    return get_family(tiny.family or name, tokenizer=words(), **media, mrope="transformers")


def video(name: str, frames: int) -> Medium:
    facts = Media(kind="video", height=70, width=90, frames=frames, fps=5.0, seconds=frames / 5)
    (plan,) = plan_media(family(name), [facts])
    return facts, FRAMES[list(plan.frames)]


def sound(samples: int) -> Medium:
    """A tone that rises, at 16 kHz."""
    at = np.arange(samples) / 16_000
    wave = np.sin(2 * np.pi * (200 + 50 * at) * at).astype(np.float32)
    return Media(kind="audio", samples=samples, sample_rate=16_000, channels=1, seconds=samples / 16_000), wave


def told(name: str) -> list[list[str | Medium]]:
    """What the samples of a family say and show."""
    kinds = ALL[name].kinds
    found: list[list[str | Medium]] = []
    if "image" in kinds:
        found.append(["<s>see ", image(PHOTOS[0]), " a temple by the water</s>"])
        found.append(["<s>compare ", image(PHOTOS[1]), " with ", image(PHOTOS[3]), " and say which is wider</s>"])
    if "audio" in kinds:
        found.append(["<s>hear ", sound(7_123), " a tone that rises</s>"])
        found.append(["<s>first ", sound(3_000), " then ", sound(16_000), " the second is longer</s>"])
    if "video" in kinds:
        found.append(["<s>watch ", video(name, 11), " the sky above a roof</s>"])
    found.append(["<s>words alone, without anything to look at</s>"])
    if not kinds:
        found += [["<s>a few more words</s>"], ["<s>and these, so that there are three samples</s>"]]
    return found


def samples(name: str) -> list[Packed]:
    """Each of one segment, the last third of its words trained, with a key of its own."""
    return [
        replace(packed(family(name), [sample], trained=5), keys=(f"{name}-{number}",))
        for number, sample in enumerate(told(name))
    ]


def together(name: str, which: Sequence[Sequence[str | Medium]]) -> Packed:
    """Several samples as one pack."""
    return packed(family(name), which, trained=5)
