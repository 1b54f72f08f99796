"""The native model: towers without padding (or anyone's), connectors, and any causal language model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, PreTrainedModel
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from mmtrain.auxiliary import Term
from mmtrain.models import connectors, experts, fusion, towers, video
from mmtrain.models.beside import BESIDE, MODALITIES, Beside, Tokens
from mmtrain.models.configs import NativeConfig
from mmtrain.models.connectors import Patches
from mmtrain.models.fusion import Sight
from mmtrain.models.heads import make as make_heads
from mmtrain.models.heads.films import Towers
from mmtrain.models.hearing import LANGUAGES, Heard, Hearing
from mmtrain.models.layers import Borders, Context
from mmtrain.models.placeholders import blanked, holes, placed, segments
from mmtrain.models.towers import pictures
from mmtrain.models.video.batches import filmed, left

POOLED = 1
"""Sound's positions are pooled before the connector, so each is a token."""


@dataclass
class NativeOutput(BaseModelOutputWithPast):
    """Hidden states; with a cache what one more token of each row sees of its media; of a dual encoder the vectors of
    each picture, in the order of `NativeModel.shown`; of a model with heads what its towers made."""

    seen: Sight | None = None
    pictures: Context | None = None
    towers: Towers | None = None


@dataclass
class NativeCausalOutput(CausalLMOutputWithPast):
    """Logits, and the same."""

    seen: Sight | None = None


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
        self.anchor: Any = None
        """`mmtrain.anchor.Anchor`, while a tower is held to what it was; no part of the model."""
        self.auxiliary: dict[str, Term] = {}
        dropout = config.modality_dropout
        self.picture_dropout, self.sound_dropout = (float(dropout.get(kind, 0)) for kind in ("picture", "sound"))
        if config.vision_config is not None:
            self.vision_tower = towers.vision(config.vision_config)
            self.connecting = connectors.read(config.connector)
            self.vision_connector = connectors.make(
                self.connecting, config.vision_config.hidden_size, width, config.merge
            )
        if (looking := video.read(config.video)) is not None:
            self.video = video.make(looking, config.vision_config.hidden_size, config.merge)
        if config.audio_config is not None:
            self.audio_tower = towers.audio(config.audio_config)
            told = connectors.read(config.audio_connector)
            self.audio_connector = connectors.make(told, config.audio_config.hidden_size, width, POOLED)
            self.hearing = Hearing(Heard.model_validate(config.hearing or {}), config.audio_config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.fusing, text = fusion.read(config.fusion), config.text_config
        if (found := fusion.make(self.fusing, self.language_model, text)) is not None:
            self.fusion = found
        if (told := experts.read(config.experts)) is not None:
            experts.install(told, self.language_model, text)
        sides = [getattr(each, "hidden_size", 0) for each in (config.vision_config, config.audio_config)]
        if (reading := make_heads(config.heads, width, *sides)) is not None:
            self.heads = reading
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
        frame_counts: torch.Tensor | None = None,
        frame_ms: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        audio_frames: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        seen: Sight | None = None,
        **others: Any,
    ) -> NativeOutput:
        """A row of tokens, and the media of family `native`, `native_navit` or `native_fixed` in the order of their
        placeholders; `others` go to the language model, borders of packed rows among them. `seen` is what an earlier
        call with a cache answered, of which tokens that go on see the keys and values as they are. Raises ValueError
        where features and placeholders differ in number."""
        config = self.config
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        media = {
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
            "patch_coordinates": patch_coordinates,
            "patch_counts": patch_counts,
            "pixel_values_videos": pixel_values_videos,
            "frame_counts": frame_counts,
            "frame_ms": frame_ms,
        }
        patches, pictured = self.patches(media), None
        sound: list[Any] = []
        if patches is not None:
            made, at = self.vision_connector(patches), 0
            if self.picture_dropout and self.training:
                batch = {"input_ids": input_ids, **media, **others}
                firsts = self.first_tokens(batch)
                made = blanked(made, self._made(media), firsts, segments(batch), self.picture_dropout)
            if self.fusing.kind == "late":
                pictured = Context(rows=made, borders=Borders.of(self._made(media), made.device))
            elif self.fusing.marks:
                seen = self._sight(made, {"input_ids": input_ids, **media, **others})
            for tokens, lengths in [] if self.fusing.marks else self.shown(media):
                count = sum(self._tokens(length) for length in lengths)
                inputs_embeds = placed(inputs_embeds, input_ids, tokens, made[at : at + count])
                at += count
        if input_features is not None:
            assert audio_frames is not None, "the batch has sounds but not how long they are"
            heard, *sound = self._heard(input_features, audio_frames, others.pop(LANGUAGES, None))
            if self.sound_dropout and self.training and input_ids is not None:
                places = torch.nonzero(holes(input_ids.flatten(), (config.audio_token_id,)))[:, 0]
                cu = segments({"input_ids": input_ids, **others})
                heard = blanked(heard, [1] * len(places), places, cu, self.sound_dropout)
            inputs_embeds = placed(inputs_embeds, input_ids, (config.audio_token_id,), heard)
        if patches is None and seen is not None:
            seen = seen.stretched(inputs_embeds.shape[1])
        if hasattr(self, "fusion") or config.experts is not None:
            others[BESIDE] = Beside(seen=seen, tokens=self._stand_for(input_ids, inputs_embeds, others))
        output = self.language_model(inputs_embeds=inputs_embeds, **others)
        if patches is not None and seen is not None:
            seen = seen.after(*inputs_embeds.shape[:2])
        return NativeOutput(
            last_hidden_state=output.last_hidden_state,
            past_key_values=getattr(output, "past_key_values", None),
            hidden_states=getattr(output, "hidden_states", None),
            attentions=getattr(output, "attentions", None),
            seen=seen,
            pictures=pictured,
            towers=Towers(patches, *sound) if hasattr(self, "heads") else None,
        )

    def _made(self, media: Mapping[str, Any]) -> list[int]:
        """How many vectors the connector makes of each picture."""
        each = [length for _, lengths in self.shown(media) for length in lengths]
        return [connectors.tokens_of(self.connecting, self.config.merge, length) for length in each]

    def _sight(self, made: torch.Tensor, batch: Mapping[str, Any]) -> Sight:
        """Who sees which of the connector's vectors. With a cache, what is made of them is kept for later calls."""
        tokens, firsts = self._made(batch), self.first_tokens(batch)
        frames = batch["input_ids"].flatten()[firsts] == self.config.video_token_id
        found = fusion.sight(made, firsts, tokens, frames, segments(batch))
        return replace(found, kept={}) if batch.get("use_cache") else found

    def _stand_for(self, ids: torch.Tensor | None, embeds: torch.Tensor, others: Mapping[str, Any]) -> Tokens:
        """What the tokens of a batch are, and of which sample."""
        given = embeds[..., 0].long() * 0 if ids is None else ids
        modality, config = torch.zeros_like(given), self.config
        modality[holes(given, (config.image_token_id, config.video_token_id))] = MODALITIES.index("picture")
        modality[holes(given, (config.audio_token_id,))] = MODALITIES.index("sound")
        mask = others.get("attention_mask")
        if torch.is_tensor(mask) and mask.shape == given.shape:
            modality[mask == 0] = -1
        return Tokens(modality=modality.flatten(), cu_seqlens=segments({"input_ids": given, **others}))

    def patches(self, media: Mapping[str, Any]) -> Patches | None:
        """What the vision tower makes of a batch's pictures, and `model.video` of that, in the order of `shown`; None
        without any."""
        if not (shown := pictures.shown(getattr(self, "vision_tower", None), self.config, media)):
            return None
        anchored = self.anchor is not None and self.training and torch.is_grad_enabled()
        found = self.anchor.see(self, media) if anchored else pictures.see(self.vision_tower, self.config, media)
        return filmed(self.video, found, shown, media) if found is not None and hasattr(self, "video") else found

    def shown(self, media: Mapping[str, Any]) -> pictures.Shown:
        """`mmtrain.models.towers.pictures.shown`, or what `model.video` leaves of it."""
        found = pictures.shown(getattr(self, "vision_tower", None), self.config, media)
        return left(self.video.spec, found, media) if hasattr(self, "video") else found

    def _tokens(self, patches: int) -> int:
        """How many placeholders a picture has."""
        return 1 if self.fusing.marks else connectors.tokens_of(self.connecting, self.config.merge, patches)

    def first_tokens(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Where the first token of each picture stands when the rows of a batch are laid after each other: int64 [N],
        in the order in which the connector has the pictures."""
        ids = batch["input_ids"].flatten()
        found = []
        for tokens, lengths in self.shown(batch):
            places = torch.nonzero(holes(ids, tokens))[:, 0]
            wanted = sum(self._tokens(length) for length in lengths)
            if len(places) != wanted:
                raise ValueError(f"{len(places)} placeholders for the {wanted} of {len(lengths)} pictures")
            firsts = [0, *itertools.accumulate(self._tokens(length) for length in lengths)][:-1]
            found.append(places[torch.tensor(firsts, device=places.device)])
        return torch.cat(found) if found else ids[:0]

    def _heard(
        self, mels: torch.Tensor, frames: torch.Tensor, languages: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sounds [N, n_mels, F] (or waveforms [N, samples]) through the audio tower -> [tokens, width], and what the
        connector made them of."""
        rows, _ = self.hearing(self.audio_tower, mels, frames, languages)
        return self.audio_connector(Patches(rows=rows, lengths=(len(rows),))), rows


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
        frame_counts: torch.Tensor | None = None,
        frame_ms: torch.Tensor | None = None,
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
    ) -> NativeCausalOutput:
        """As `NativeModel`, to logits [B, T, vocabulary], and with `labels` the token-mean loss of transformers."""
        output = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            patch_coordinates=patch_coordinates,
            patch_counts=patch_counts,
            pixel_values_videos=pixel_values_videos,
            frame_counts=frame_counts,
            frame_ms=frame_ms,
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
        return NativeCausalOutput(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            seen=output.seen,
        )

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: Any, *more: Any, **told: Any) -> Any:
        """What was kept of the media goes with the cache."""
        parent: Any = super()
        return {
            **parent._update_model_kwargs_for_generation(outputs, model_kwargs, *more, **told),
            "seen": outputs.seen,
        }

    def prepare_inputs_for_generation(self, input_ids: Any, *given: Any, **kwargs: Any) -> Any:
        """Media go in with the first tokens; later ones find them in the cache."""
        media = {name: kwargs.pop(name) for name in MEDIA if name in kwargs}
        past = kwargs.get("past_key_values")
        first = past is None or past.get_seq_length() == 0 or not kwargs.get("use_cache", True)
        parent: Any = super()
        seen = kwargs.pop("seen", None)
        inputs = parent.prepare_inputs_for_generation(input_ids, *given, **kwargs)
        return {**inputs, **media} if first else {**inputs, "seen": seen}


MEDIA = (
    "pixel_values",
    "image_grid_thw",
    "patch_coordinates",
    "patch_counts",
    "pixel_values_videos",
    "frame_counts",
    "frame_ms",
    "input_features",
    "audio_frames",
    LANGUAGES,
)


AutoModel.register(NativeConfig, NativeModel, exist_ok=True)
AutoModelForImageTextToText.register(NativeConfig, NativeForConditionalGeneration, exist_ok=True)
