"""What a native model's folder says of it: `config.json`, in the form of transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

# `__init__` by hand: how transformers makes one of class attributes changed within version 5.


class NavitConfig(PreTrainedConfig):
    """Our vision tower, of the fields of `NavitSpec`, and what other people's towers of patches need beside them.

    `view` says how pictures become patches (`mmtrain.models.towers.presets`), `view_options` its parameters. Heads are
    `head_width` wide (hidden_size / heads unless it is said), MLPs `intermediate_size` (4 * hidden_size); `norm` and
    `layer_norm_eps` are those of `mmtrain.models.layers.norm_of`. A tower of no layers answers the patches as they are.
    """

    model_type = "mmtrain_navit"

    def __init__(
        self,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        patch_size: int = 16,
        positions: str = "rope",
        max_grid: int = 256,
        drop: float = 0.0,
        mixup: float = 0.0,
        view: str = "native",
        view_options: dict[str, Any] | None = None,
        intermediate_size: int | None = None,
        head_width: int | None = None,
        bias: bool = True,
        gated: bool = False,
        activation: str = "gelu",
        norm: str = "layer",
        layer_norm_eps: float = 1e-5,
        attention_scale: float | None = None,
        **others: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.patch_size = patch_size
        self.positions = positions
        self.max_grid = max_grid
        self.drop = drop
        self.mixup = mixup
        self.view = view
        self.view_options = view_options or {}
        self.intermediate_size = intermediate_size or 4 * hidden_size
        self.head_width = head_width
        self.bias = bias
        self.gated = gated
        self.activation = activation
        self.norm = norm
        self.layer_norm_eps = layer_norm_eps
        self.attention_scale = attention_scale
        super().__init__(**others)


class LatentConfig(PreTrainedConfig):
    """A tokeniser of continuous tokens as a tower: `tokeniser` is its spec (`mmtrain.models.tokens.KlSpec`), of which
    the other fields follow."""

    model_type = "mmtrain_latent"

    def __init__(self, tokeniser: dict[str, Any] | None = None, **others: Any) -> None:
        self.tokeniser = tokeniser or {"kind": "kl"}
        self.hidden_size = int(self.tokeniser.get("width", 4))
        self.patch_size = int(self.tokeniser.get("stride", 4))
        self.image_size = int(self.tokeniser.get("size", 32))
        self.num_hidden_layers, self.num_attention_heads = 0, 1
        super().__init__(**{key: value for key, value in others.items() if key not in self.__dict__})


class VarlenAudioConfig(PreTrainedConfig):
    """Our audio tower, of the fields of `VarlenAudioSpec`."""

    model_type = "mmtrain_varlen_audio"

    def __init__(
        self,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        num_mel_bins: int = 80,
        **others: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_mel_bins = num_mel_bins
        super().__init__(**others)


class TimeFrequencyConfig(VarlenAudioConfig):
    """Our audio tower over time and frequency, of the fields of `TimeFrequencySpec`."""

    model_type = "mmtrain_time_frequency"

    def __init__(self, bands: int = 8, **others: Any) -> None:
        self.bands = bands
        super().__init__(**others)


class NativeConfig(PreTrainedConfig):
    """Towers, connectors and language model. A part's config is ours or any of transformers', by its `model_type`;
    None for a tower that the model does not have. `connector`, `audio_connector`, `hearing`, `fusion`, `experts` and
    `heads` are their specs as dictionaries, `views` are the parameters with which its media are made, `objective` says
    what is learned (`NativeSpec`)."""

    model_type = "mmtrain_native"
    sub_configs: ClassVar[dict[str, Any]] = {
        "vision_config": AutoConfig,
        "audio_config": AutoConfig,
        "text_config": AutoConfig,
    }

    def __init__(
        self,
        vision_config: Any = None,
        audio_config: Any = None,
        text_config: Any = None,
        connector: dict[str, Any] | str = "mlp",
        video: dict[str, Any] | None = None,
        audio_connector: dict[str, Any] | str = "mlp",
        hearing: dict[str, Any] | None = None,
        fusion: dict[str, Any] | None = None,
        experts: dict[str, Any] | None = None,
        heads: dict[str, Any] | None = None,
        objective: str = "language",
        modality_dropout: dict[str, float] | None = None,
        merge: int = 1,
        vision_layer: int = -1,
        views: dict[str, dict[str, Any]] | None = None,
        image_token_id: int | None = None,
        video_token_id: int | None = None,
        audio_token_id: int | None = None,
        tie_word_embeddings: bool = False,
        **others: Any,
    ) -> None:
        self.vision_config = _config(vision_config)
        self.audio_config = _config(audio_config)
        self.text_config = _config(text_config or {"model_type": "llama"})
        self.connector = connector
        self.video = video
        self.audio_connector = audio_connector
        self.hearing = hearing
        self.fusion = fusion or {"kind": "early"}
        self.experts = experts
        self.heads = heads
        self.objective = objective
        self.modality_dropout = modality_dropout or {}
        self.merge = merge
        self.vision_layer = vision_layer
        self.views = views or {}
        self.image_token_id = image_token_id
        self.video_token_id = video_token_id
        self.audio_token_id = audio_token_id
        super().__init__(**others)
        self.tie_word_embeddings = tie_word_embeddings


def _config(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return AutoConfig.for_model(**value)


for _each in (LatentConfig, NavitConfig, VarlenAudioConfig, TimeFrequencyConfig, NativeConfig):
    AutoConfig.register(_each.model_type, _each, exist_ok=True)
