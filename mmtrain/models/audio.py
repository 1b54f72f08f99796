"""The native audio tower: Whisper's encoder for sounds of any length, many in one row, none padded."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from mmtrain.models.configs import VarlenAudioConfig
from mmtrain.models.layers import Borders, Layer


class VarlenAudio(nn.Module):
    """Two convolutions, the second of stride 2, sinusoidal positions, pre-norm layers (Radford et al. 2022,
    arXiv 2212.04356, without its 30 seconds)."""

    def __init__(self, config: VarlenAudioConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.hidden_size, 3, padding=1)
        self.conv2 = nn.Conv1d(config.hidden_size, config.hidden_size, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(
            Layer(config.hidden_size, config.num_attention_heads) for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, mels: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Log-mel [N, n_mels, F] of sounds of `frames` int64 [N] frames -> [T, hidden], T the sum of `halved(frames)`.

        What fills a sound up to F has no say: it is cleared before each convolution, as if there were nothing."""
        return self.states(mels, frames)[-1]

    def states(self, mels: torch.Tensor, frames: torch.Tensor) -> list[torch.Tensor]:
        """What each layer sees, and the output: [T, hidden] each."""
        inside = torch.arange(mels.shape[-1], device=mels.device) < frames[:, None]
        x = mels.to(self.conv1.weight.dtype) * inside[:, None]
        x = F.gelu(self.conv1(x)) * inside[:, None]
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        lengths = halved(frames).tolist()
        x = x + sinusoids(x.shape[1], x.shape[2]).to(x)
        x = torch.cat([sound[:length] for sound, length in zip(x, lengths, strict=True)])
        borders = Borders.of(lengths, x.device)
        seen = []
        for layer in self.layers:
            seen.append(x)
            x = layer(x, borders)
        return [*seen, self.norm(x)]


def halved(frames: torch.Tensor) -> torch.Tensor:
    """Positions that a convolution of stride 2 makes of so many frames.

    >>> halved(torch.tensor([1, 2, 3])).tolist()
    [1, 1, 2]
    """
    return (frames - 1) // 2 + 1


def sinusoids(length: int, width: int, longest: float = 10_000.0) -> torch.Tensor:
    """Whisper's positions: float32 [length, width], sines in the first half, cosines in the second (openai/whisper,
    `model.py: sinusoids`).

    >>> sinusoids(2, 4)[0].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    step = math.log(longest) / (width // 2 - 1)
    times = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(width // 2))
    return torch.cat([times.sin(), times.cos()], dim=1)
