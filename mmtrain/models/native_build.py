"""Native models from specs: parts from numbers or from folders, put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, LlamaConfig
from transformers.models.auto import modeling_auto

from mmdata.errors import SpecError
from mmtrain.models import connectors, experts, fusion, hf, tokens, video
from mmtrain.models.configs import LatentConfig, NativeConfig, NavitConfig, TimeFrequencyConfig, VarlenAudioConfig
from mmtrain.models.heads import check as check_heads
from mmtrain.models.hearing import POSITIONS, WAVES, bound
from mmtrain.models.hearing import check as check_hearing
from mmtrain.models.native import NativeForConditionalGeneration
from mmtrain.models.source import folder_of
from mmtrain.models.spec import (
    FuyuSpec,
    HfAudioSpec,
    HfLanguageSpec,
    HfVisionSpec,
    LatentSpec,
    NaflexSpec,
    NativeSpec,
    NavitSpec,
    Pix2StructSpec,
    TimeFrequencySpec,
    TinyLanguageSpec,
    TowerSpec,
    VarlenAudioSpec,
)
from mmtrain.models.towers import presets, spectrograms

FFN_RATIO = 3
MAX_POSITIONS = 4096


def native_config(spec: NativeSpec) -> NativeConfig:
    """What a native model is made of; its tokens' ids are still to be told. Raises SpecError for folders whose parts do
    not fit."""
    if spec.path is not None:
        try:
            found = AutoConfig.from_pretrained(spec.path, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise SpecError(f"model.path: {spec.path} holds no native model: {error}") from error
        if not isinstance(found, NativeConfig):
            raise SpecError(f"model.path: {spec.path} holds a {found.model_type}; use kind: hf")
        if spec.objective == "qformer" and getattr(connectors.read(found.connector), "text", None) is None:
            raise SpecError(f"model.objective: qformer, but the connector in {spec.path} has no side for text")
        if (found.fusion["kind"] == "late") != (spec.objective == "contrastive"):
            raise SpecError(
                f"model.objective: {spec.objective}, but the fusion in {spec.path} is {found.fusion['kind']}"
            )
        found.objective = spec.objective
        if "modality_dropout" in spec.model_fields_set:
            found.modality_dropout = dict(spec.modality_dropout)
        return found
    vision, layer = _vision_config(spec)
    depth = getattr(vision, "num_hidden_layers", None)
    if isinstance(depth, int) and -layer > depth + 1:
        raise SpecError(
            f"model.vision.layer: {layer}, and the tower has {depth} layers: -{depth + 1} is what enters them"
        )
    text, merge = _text_config(spec.language), _merge(spec)
    if vision is not None:
        dropping = isinstance(vision, NavitConfig) and vision.drop > 0
        connectors.check(spec.connector, merge, vision.hidden_size, text.hidden_size, dropping=dropping)
        if spec.video is not None:
            video.check(spec.video, spec.connector.kind, vision.hidden_size, merge, dropping=dropping)
    grid = vision is not None and spec.connector.merges and not (spec.fusion.marks or bool(getattr(vision, "drop", 0)))
    latents = isinstance(vision, LatentConfig) and spec.connector.kind in ("linear", "mlp")
    latents = latents and spec.fusion.kind == "early" and spec.video is None
    whole = spec.video is not None and not spec.video.widens
    pixels = vision is not None and getattr(vision, "view", "native") == "native" and not getattr(vision, "drop", 0)
    pixels = pixels and not getattr(vision, "mixup", 0)
    seen = {"grid": grid, "latents": latents, "filmed": spec.video is not None, "whole": whole, "pixels": pixels}
    check_heads(spec.heads, **seen, hears=spec.audio is not None)
    (audio, sounds), views = _audio_config(spec), spec.views.given()
    positions: float = POSITIONS
    if audio is not None and audio.model_type in spectrograms.KINDS:
        if spec.heads.offset is not None:
            raise SpecError(
                f"model.heads.offset: it turns sounds around, and a {audio.model_type} takes spectrograms of one size; "
                "take an audio tower of log-mel or waveforms, or leave the head out"
            )
        views["audio"] = {**sounds, **views.get("audio", {})}  # the extractor is remembered with the rest
        positions = spectrograms.rate(audio, views["audio"])
    fusion.check(spec.fusion, text.num_hidden_layers, text.hidden_size, text.num_attention_heads)
    return NativeConfig(
        vision_config=vision,
        audio_config=audio,
        text_config=text,
        connector=spec.connector.model_dump(),
        video=None if spec.video is None else spec.video.model_dump(),
        audio_connector=spec.audio_connector.model_dump(),
        hearing=None if spec.audio is None else bound(spec.audio, positions).model_dump(),
        fusion=spec.fusion.model_dump(),
        experts=None if spec.experts is None else spec.experts.model_dump(),
        heads=spec.heads.model_dump(exclude_none=True) or None,
        objective=spec.objective,
        modality_dropout={kind: share for kind, share in dict(spec.modality_dropout).items() if share},
        merge=merge,
        vision_layer=layer,
        views=views,
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )


def tell_vocabulary(config: NativeConfig, tokens: int) -> None:
    """Write into the config of a Q-Former with text how many tokens there are, where it does not say. Raises SpecError
    for one that has fewer."""
    connector = connectors.read(config.connector)
    text = getattr(connector, "text", None)
    if text is None:
        return
    if text.vocabulary is not None and text.vocabulary < tokens:
        raise SpecError(f"model.connector.text.vocabulary: {text.vocabulary}, and the tokenizer has {tokens} tokens")
    told = text.model_copy(update={"vocabulary": text.vocabulary or tokens})
    config.connector = connector.model_copy(update={"text": told}).model_dump()


def build_native(spec: NativeSpec, config: NativeConfig) -> NativeForConditionalGeneration:
    """The model, parts from folders with their weights, all others random from torch's generator, float32."""
    if spec.path is not None:
        loaded: Any = hf.pretrained(NativeForConditionalGeneration, Path(spec.path), config, "model")
        return loaded
    model = NativeForConditionalGeneration(config)
    if isinstance(spec.vision, LatentSpec):
        model.model.vision_tower.tokeniser.load_state_dict(_tokeniser(spec.vision).state_dict())
    if isinstance(spec.vision, HfVisionSpec) and not spec.vision.random:
        model.model.vision_tower.load_state_dict(_vision_weights(spec.vision, config.vision_config))
    if isinstance(spec.audio, HfAudioSpec) and not spec.audio.random:
        folder = folder_of(spec.audio, "model.audio")
        kind: Any = config.audio_config.model_type
        if kind in spectrograms.KINDS:
            cls = spectrograms.tower_class(config.audio_config)
            loaded = hf.pretrained(cls, folder, config.audio_config, "model.audio", spectrograms.INNER)
        else:
            loaded = hf.pretrained(AutoModel, folder, config.audio_config, "model.audio")
        theirs = loaded.encoder if kind == "whisper" else loaded
        model.model.audio_tower.load_state_dict(theirs.state_dict())
    if isinstance(spec.language, HfLanguageSpec) and not spec.language.random:
        folder = folder_of(spec.language, "model.language")
        text = hf.load(folder, config.text_config, random=False, key="model.language")
        mine, theirs = model.model.language_model, text.base_model.state_dict()
        mine.load_state_dict(theirs if config.experts is None else experts.upcycled(theirs, mine))
        model.lm_head.load_state_dict(text.get_output_embeddings().state_dict())
        model.tie_weights()
        model.generation_config = text.generation_config
    return model


def _merge(spec: NativeSpec) -> int:
    """How many patches by how many are a block."""
    part, kind = spec.vision, spec.connector
    told = getattr(part, "merge", None)
    if part is None or not kind.merges or told is not None:
        return told or 1
    if isinstance(part, NavitSpec):
        return 1 if part.drop else 2
    return 2 if isinstance(part, HfVisionSpec) and kind.kind in connectors.BLOCKS else 1


def _vision_config(spec: NativeSpec) -> tuple[Any, int]:
    """The tower's config, and the layer that is taken."""
    part = spec.vision
    if part is None:
        return None, -1
    if isinstance(part, NavitSpec):
        told: dict[str, Any] = {"max_grid": part.max_grid, "drop": part.drop, "mixup": part.mixup}
        config = NavitConfig(**_sizes(part), patch_size=part.patch, positions=part.positions, **told)
        return config, part.layer
    if isinstance(part, LatentSpec):
        return LatentConfig(tokeniser=_tokeniser(part).spec.model_dump()), -1
    if isinstance(part, FuyuSpec):
        return presets.fuyu(patch=part.patch, height=part.height, width=part.width), -1
    if isinstance(part, NaflexSpec | Pix2StructSpec):
        sizes = part.hidden, part.layers, part.heads, part.inner
        if isinstance(part, NaflexSpec):
            return presets.naflex(*sizes, patch=part.patch, budget=part.budget, side=part.side), part.layer
        told = {"head_width": part.hidden // part.heads, "most": part.budget}
        return presets.pix2struct(*sizes, patch=part.patch, budget=part.budget, **told), part.layer
    folder, found = _of_folder(part)
    if found.model_type in presets.KINDS:
        if part.merge not in (None, 1):
            raise SpecError(f"model.vision.merge: {part.merge}, but pictures of any shape have no whole blocks; 1")
        return presets.of_hf(found, folder), part.layer
    wanted = ("hidden_size", "image_size", "patch_size")
    if missing := [name for name in wanted if not isinstance(getattr(found, name, None), int)]:
        raise SpecError(
            f"model.vision.path: a {found.model_type} has no {missing[0]}; towers of fixed size are wanted, such as "
            "CLIP, SigLIP, DINOv2 or ViT, or those of SigLIP 2 NaFlex and Pix2Struct"
        )
    return found, part.layer


def _tokeniser(part: LatentSpec) -> tokens.Kl:
    found = tokens.load(Path(part.path), "model.vision.path")
    if not isinstance(found, tokens.Kl):
        raise SpecError(f"model.vision.path: {part.path} holds a tokeniser of codes; latents are of kind kl")
    return found


def _of_folder(part: HfVisionSpec) -> tuple[Path, Any]:
    """The folder of a tower, and its config there, beside a text tower or not."""
    folder = folder_of(part, "model.vision")
    whole = hf.read_config(folder, "model.vision")
    return folder, getattr(whole, "vision_config", whole)


def _vision_weights(part: HfVisionSpec, config: Any) -> dict[str, Any]:
    folder, theirs = _of_folder(part)
    if isinstance(config, NavitConfig):
        return presets.weights_of(theirs, folder, "model.vision")
    found: dict[str, Any] = hf.pretrained(_tower_class(config), folder, config, "model.vision").state_dict()
    return found


def _audio_config(spec: NativeSpec) -> tuple[Any, dict[str, Any]]:
    """The tower's config, and the parameters that its folder has for its view."""
    part = spec.audio
    if part is None:
        return None, {}
    if isinstance(part, VarlenAudioSpec):
        return VarlenAudioConfig(**_sizes(part), num_mel_bins=part.mels), {}
    if isinstance(part, TimeFrequencySpec):
        return TimeFrequencyConfig(**_sizes(part), num_mel_bins=part.mels, bands=part.bands), {}
    folder = folder_of(part, "model.audio")
    config = hf.read_config(folder, "model.audio")
    if config.model_type in (*spectrograms.KINDS, "clap"):
        config, sounds = spectrograms.inside(config, folder, "model.audio")
        check_hearing(part, config)
        return config, sounds
    check_hearing(part, config)
    if config.model_type in WAVES:
        config.apply_spec_augment = False  # the stream's to do; a short clip has no room for its masks
        config.layerdrop = 0.0
    return config, {}


def _text_config(part: TinyLanguageSpec | HfLanguageSpec) -> Any:
    if isinstance(part, TinyLanguageSpec):
        return LlamaConfig(
            **_sizes(part),
            intermediate_size=FFN_RATIO * part.hidden,
            num_key_value_heads=part.kv_heads or part.heads,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=part.tie,
        )
    config = hf.read_config(folder_of(part, "model.language"), "model.language")
    if config.model_type not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise SpecError(f"model.language.path: a {config.model_type} is no causal language model")
    return config


def _tower_class(config: Any) -> type[Any]:
    """The class of a vision tower, also where its folder holds the text tower beside it (CLIP, SigLIP)."""
    found: Any = modeling_auto.MODEL_MAPPING[type(config)]
    return found


def _sizes(part: TowerSpec) -> dict[str, Any]:
    return {"hidden_size": part.hidden, "num_hidden_layers": part.layers, "num_attention_heads": part.heads}
