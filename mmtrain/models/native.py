"""The native model: towers without padding (or anyone's), connectors, and any causal language model."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, PreTrainedModel
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from mmdata.views.patches import patch_coordinates
from mmtrain.models.audio import VarlenAudio, halved, pooled
from mmtrain.models.configs import NativeConfig, NavitConfig, VarlenAudioConfig
from mmtrain.models.connectors import CONNECTORS, in_blocks
from mmtrain.models.navit import Navit

_INTERPOLATE = "interpolate_pos_encoding"
POOLED = 1
"""Sound's positions are pooled before the connector, so each is a token."""


class NativePreTrainedModel(PreTrainedModel):
    """What both share: how transformers is to treat them."""

    config_class = NativeConfig
    base_model_prefix = "model"
    input_modalities: Any = ("image", "video", "audio", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement: Any = ("past_key_values",)


class NativeModel(NativePreTrainedModel):
    """Towers, connectors and decoder: token ids and media to hidden states."""

    def __init__(self, config: NativeConfig) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        make = CONNECTORS[config.connector]
        if config.vision_config is not None:
            self.vision_tower = _vision(config.vision_config)
            self.vision_connector = make(config.vision_config.hidden_size, width, config.merge**2)
        if config.audio_config is not None:
            self.audio_tower = _audio(config.audio_config)
            self.audio_connector = make(config.audio_config.hidden_size, width, POOLED)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_decoder(self) -> Any:
        return self.language_model

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        patch_coordinates: torch.Tensor | None = None,
        patch_counts: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_frames: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPast:
        """A row of tokens, and the media of family `native`, `native_navit` or `native_fixed` in the order of their
        placeholders; `others` go to the language model, borders of packed rows among them. Raises ValueError where
        features and placeholders differ in number."""
        config = self.config
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None and isinstance(self.vision_tower, Navit):
            where, lengths = _places(image_grid_thw, patch_coordinates, patch_counts, config.merge)
            seen = self.vision_connector(self.vision_tower(pixel_values, where.to(pixel_values.device), lengths))
            inputs_embeds = _placed(inputs_embeds, input_ids, (config.image_token_id, config.video_token_id), seen)
        else:
            for pixels, token in ((pixel_values, config.image_token_id), (pixel_values_videos, config.video_token_id)):
                if pixels is not None:
                    inputs_embeds = _placed(inputs_embeds, input_ids, (token,), self._squares(pixels))
        if input_features is not None:
            assert audio_frames is not None, "the batch has sounds but not how long they are"
            heard = self._heard(input_features, audio_frames)
            inputs_embeds = _placed(inputs_embeds, input_ids, (config.audio_token_id,), heard)
        output = self.language_model(inputs_embeds=inputs_embeds, **others)
        return BaseModelOutputWithPast(
            last_hidden_state=output.last_hidden_state,
            past_key_values=getattr(output, "past_key_values", None),
            hidden_states=getattr(output, "hidden_states", None),
            attentions=getattr(output, "attentions", None),
        )

    def _squares(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures [N, 3, S, S] through a tower of fixed size -> [tokens, width]; tokens for classes and registers are
        left out. Of another size than the tower was trained with, its table of positions is interpolated, by those
        towers that do not anyway."""
        tower: Any = self.vision_tower
        layer, patch = self.config.vision_layer, tower.config.patch_size
        told: dict[str, Any] = {"output_hidden_states": layer != -1}
        if pixels.shape[-1] != tower.config.image_size and _INTERPOLATE in inspect.signature(tower.forward).parameters:
            told[_INTERPOLATE] = True
        output = tower(pixels.to(tower.dtype), **told)
        hidden = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
        rows = pixels.shape[-1] // patch
        patches = hidden[:, hidden.shape[1] - rows * rows :]
        return self.vision_connector(in_blocks(patches, rows, self.config.merge))

    def _heard(self, mels: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Sounds [N, n_mels, F] through the audio tower -> [tokens, width], 25 a second."""
        lengths = halved(frames).tolist()
        tower: Any = self.audio_tower
        if isinstance(tower, VarlenAudio):
            hidden = tower(mels, frames)
        else:
            whole = tower(mels.to(tower.dtype)).last_hidden_state
            hidden = torch.cat([sound[:length] for sound, length in zip(whole, lengths, strict=True)])
        return self.audio_connector(pooled(hidden, lengths))


class NativeForConditionalGeneration(NativePreTrainedModel, GenerationMixin):
    """The native model with its language head; loads from a folder by `AutoModelForImageTextToText` once this module is
    imported."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012 as transformers has it

    def __init__(self, config: NativeConfig) -> None:
        super().__init__(config)
        self.model = NativeModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        table = self.model.get_input_embeddings()
        (name,) = (name for name, module in self.named_modules() if module is table)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}  # whatever the decoder calls its embeddings
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def get_decoder(self) -> Any:
        return self.model.language_model

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        patch_coordinates: torch.Tensor | None = None,
        patch_counts: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_frames: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """As `NativeModel`, to logits [B, T, vocabulary], and with `labels` the token-mean loss of transformers."""
        output = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            patch_coordinates=patch_coordinates,
            patch_counts=patch_counts,
            pixel_values_videos=pixel_values_videos,
            input_features=input_features,
            audio_frames=audio_frames,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **others,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
        logits = self.lm_head(output.last_hidden_state[:, kept if isinstance(logits_to_keep, int) else logits_to_keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.lm_head.out_features)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def prepare_inputs_for_generation(self, input_ids: Any, *given: Any, **kwargs: Any) -> Any:
        """Media go in with the first tokens; later ones find them in the cache."""
        media = {name: kwargs.pop(name) for name in MEDIA if name in kwargs}
        past = kwargs.get("past_key_values")
        first = past is None or past.get_seq_length() == 0 or not kwargs.get("use_cache", True)
        parent: Any = super()
        inputs = parent.prepare_inputs_for_generation(input_ids, *given, **kwargs)
        return {**inputs, **media} if first else inputs


MEDIA = (
    "pixel_values",
    "image_grid_thw",
    "patch_coordinates",
    "patch_counts",
    "pixel_values_videos",
    "input_features",
    "audio_frames",
)


def _vision(config: Any) -> nn.Module:
    return Navit(config) if isinstance(config, NavitConfig) else AutoModel.from_config(config)


def _audio(config: Any) -> nn.Module:
    if isinstance(config, VarlenAudioConfig):
        return VarlenAudio(config)
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder(config)


def _places(
    grids: torch.Tensor | None, coordinates: torch.Tensor | None, counts: torch.Tensor | None, merge: int
) -> tuple[torch.Tensor, list[int]]:
    """(row, column) of every patch, and the patches of every picture (a frame of a video is one)."""
    if coordinates is not None:
        assert counts is not None, "the batch has patches but not how many there are of each picture"
        return coordinates, counts.tolist()
    assert grids is not None, "the batch has patches but no grid"
    places, lengths = [], []
    for frames, rows, columns in grids.tolist():
        places.append(torch.from_numpy(patch_coordinates((frames, rows, columns), merge)))
        lengths += [rows * columns] * frames
    return torch.cat(places), lengths


def _placed(
    embeds: torch.Tensor, ids: torch.Tensor | None, tokens: tuple[int | None, ...], features: torch.Tensor
) -> torch.Tensor:
    """Features [n, D] in place of the n placeholders of a row, in order."""
    assert ids is not None, "media need token ids, for their placeholders"
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for token in tokens:
        if token is not None:
            mask |= ids == token
    if int(mask.sum()) != len(features):
        raise ValueError(f"{len(features)} features for {int(mask.sum())} placeholders")
    return embeds.masked_scatter(mask[..., None], features.to(embeds.dtype))


AutoModel.register(NativeConfig, NativeModel, exist_ok=True)
AutoModelForImageTextToText.register(NativeConfig, NativeForConditionalGeneration, exist_ok=True)
