"""Towers of spectrograms of one size, and what they make of a moment: AST, and CLAP's audio encoder (HTSAT)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import ASTModel, ClapAudioModel

from mmdata.errors import SpecError
from mmdata.families._settings import read_checkpoint
from mmdata.views.spectrograms import AstSpectrogram, ClapSpectrogram

AST, CLAP = "audio-spectrogram-transformer", "clap_audio_model"
KINDS = (AST, CLAP)
"""By `model_type`."""
SPECIAL = 2
"""Tokens of AST before those of its patches: of the class, and of distillation."""
INNER = {r"^audio_model\.": ""}
"""How CLAP's audio encoder is called inside the whole, and beside its projection."""


class Clap(ClapAudioModel):
    """CLAP's audio encoder, whose batch norms keep the statistics they were trained with (their weights learn): those
    of a batch would be of whatever sounds lie in the row."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.train(self.training)

    def train(self, mode: bool = True) -> Clap:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def tower_class(config: Any) -> type[Any]:
    return Clap if config.model_type == CLAP else ASTModel


def inside(config: Any, folder: Path, key: str) -> tuple[Any, dict[str, Any]]:
    """The tower's config, of its own or of the CLAP around it, and the parameters of its view, which are its
    extractor's. Raises SpecError for what does not fit. A CLAP with fusion loses it: a sound that is longer than a clip
    is several clips here, and of others its fusion has no part."""
    config = config.audio_config if config.model_type == "clap" else config
    files = any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
    found = read_checkpoint(folder).media["audio"] if files else {}
    if config.model_type == AST:
        told = {"frames": "max_length", "bins": "num_mel_bins"}
        told |= {"sample_rate": "sampling_rate", "normalise": "do_normalize", "mean": "mean", "std": "std"}
        has = {"frames": config.max_length, "bins": config.num_mel_bins}
    else:
        told = {"bins": "feature_size", "hop": "hop_length", "n_fft": "fft_window_size", "fill": "padding"}
        told |= {"sample_rate": "sampling_rate", "low": "frequency_min", "high": "frequency_max"}
        has = {"bins": config.num_mel_bins}
    values = {name: found[theirs] for name, theirs in told.items() if found.get(theirs) is not None}
    for name, size in has.items():
        if values.pop(name, size) != size:
            raise SpecError(f"{key}.path: {folder}: its extractor's {told[name]} is not the {size} of its config.json")
    if config.model_type == CLAP:
        seconds, rate = found.get("max_length_s"), values.get("sample_rate", 48_000)
        values |= {"clip": seconds * rate} if seconds else {}
        fuses = found.get("truncation", "fusion" if config.enable_fusion else "rand_trunc") == "fusion"
        values["scale"] = "htk" if fuses else "slaney"
        if config.hidden_size != config.patch_embeds_hidden_size * 2 ** (len(config.depths) - 1):
            raise SpecError(f"{key}.path: hidden_size {config.hidden_size} is not what its last stage makes")
        config.enable_fusion, config.fusion_type = False, None
    return config, values


def positions(config: Any) -> int:
    """Of one spectrogram, in time.

    >>> from transformers import ASTConfig, ClapAudioConfig
    >>> positions(ASTConfig()), positions(ClapAudioConfig())
    (101, 32)
    """
    if config.model_type == AST:
        return int((config.max_length - config.patch_size) // config.time_stride + 1)
    ratio = config.spec_size // config.num_mel_bins
    return int(config.spec_size // _stride(config) // 2 ** (len(config.depths) - 1) * ratio)


def _stride(config: Any) -> int:
    stride = config.patch_stride
    return int(stride if isinstance(stride, int) else stride[1])


def view(config: Any, told: Mapping[str, Any], pool: int = 1) -> AstSpectrogram | ClapSpectrogram:
    """The view of a tower; `told` are parameters that it leaves open. Raises SpecError for others."""
    if config.model_type == AST:
        kind: Any = AstSpectrogram
        sizes = {"bins": config.num_mel_bins, "frames": config.max_length}
        sizes |= {"patch": config.patch_size, "stride": config.time_stride}
    else:
        kind, sizes = ClapSpectrogram, {"bins": config.num_mel_bins, "positions": positions(config)}
    sizes["pool"] = pool
    if wrong := sorted(sizes.keys() & told.keys()):
        raise SpecError(f"model.views.audio.{wrong[0]}: {told[wrong[0]]}; the tower's config says it")
    try:
        found: AstSpectrogram | ClapSpectrogram = kind(**sizes, **told)
    except TypeError as error:
        raise SpecError(f"model.views.audio: {error}") from error
    if config.model_type == CLAP and found.frames > (
        most := config.spec_size * (config.spec_size // config.num_mel_bins)
    ):
        raise SpecError(f"model.views.audio.clip: {found.frames} frames, and the tower takes {most}")
    return found


def rate(config: Any, told: Mapping[str, Any]) -> float:
    """Positions a second."""
    made = view(config, told)
    if isinstance(made, AstSpectrogram):
        return 100 / made.stride
    return made.positions * made.sample_rate / made.clip


def states(
    tower: Any, features: torch.Tensor, lengths: torch.Tensor, *, every: bool = False
) -> tuple[list[torch.Tensor], list[int]]:
    """Spectrograms float [N, frames, bins] of sounds after each other, of which each has so many positions, int64
    [sounds] -> the states [T, width] of its positions, each the mean over frequencies: of the last layer, or of AST's
    `every` one from its embeddings on; and their numbers. All spectrograms of a sound but its last are full."""
    config, each = tower.config, positions(tower.config)
    features = features.to(tower.dtype)
    if config.model_type == AST:
        output = tower(features, output_hidden_states=every)
        found = [
            state[:, SPECIAL:].unflatten(1, (-1, each)).mean(1)
            for state in (output.hidden_states if every else [output.last_hidden_state])
        ]
    else:
        found = [tower(features[:, None]).last_hidden_state.mean(2).transpose(1, 2)]
    counts = [int(length) for length in lengths.tolist()]
    pieces = [-(-count // each) for count in counts]
    if sum(pieces) != len(features):
        raise ValueError(f"{len(features)} spectrograms for sounds of {counts} positions, {each} in each")
    return [
        torch.cat([piece.flatten(0, 1)[:count] for piece, count in zip(state.split(pieces), counts, strict=True)])
        for state in found
    ], counts
