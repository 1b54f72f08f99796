"""Towers: what makes vectors of pictures and sounds, ours or anyone's, by their configs."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import AutoModel

from mmtrain.models.audio import VarlenAudio
from mmtrain.models.configs import LatentConfig, NavitConfig, TimeFrequencyConfig, VarlenAudioConfig
from mmtrain.models.towers import spectrograms
from mmtrain.models.towers.latent import Latent
from mmtrain.models.towers.navit import Navit
from mmtrain.models.towers.time_frequency import TimeFrequency

__all__ = ["Latent", "Navit", "audio", "vision"]


def vision(config: Any) -> nn.Module:
    """The vision tower of a config, ours or any of transformers'."""
    if isinstance(config, LatentConfig):
        return Latent(config)
    return Navit(config) if isinstance(config, NavitConfig) else AutoModel.from_config(config)


def audio(config: Any) -> nn.Module:
    """The audio tower of a config: ours, Whisper's encoder, or one of waveforms or of spectrograms of one size."""
    if isinstance(config, VarlenAudioConfig):
        return TimeFrequency(config) if isinstance(config, TimeFrequencyConfig) else VarlenAudio(config)
    if config.model_type in spectrograms.KINDS:
        return spectrograms.tower_class(config)(config)
    if config.model_type != "whisper":
        return AutoModel.from_config(config)
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder(config)
