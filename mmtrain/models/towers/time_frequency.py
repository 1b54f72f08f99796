"""An audio tower that attends along time and along frequency by turns, and then lets bands of frequency vote."""

from __future__ import annotations

import torch
from torch import nn

from mmtrain.models.audio import halved, sinusoids
from mmtrain.models.configs import TimeFrequencyConfig
from mmtrain.models.layers import Borders, Layer


class TimeFrequency(nn.Module):
    """The bins of a log-mel are cut into bands; two frames of a band are one cell. Each pair of layers sees the cells
    of a band over all of the sound, then the cells of one moment over all bands (axial attention: Ho et al. 2019, arXiv
    1912.12180, on patches as Gong et al. 2021, arXiv 2104.01778, cut them). A moment is the mean of its bands by
    learned weights (softmax). Cost: T^2 * B + T * B^2 of T moments and B bands; full attention has (T * B)^2."""

    def __init__(self, config: TimeFrequencyConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.cells = nn.Linear(2 * config.num_mel_bins // config.bands, width)
        self.bands = nn.Parameter(torch.zeros(config.bands, width))
        nn.init.normal_(self.bands, std=0.02)
        heads = config.num_attention_heads
        self.along_time = nn.ModuleList(Layer(width, heads) for _ in range(config.num_hidden_layers))
        self.along_bands = nn.ModuleList(Layer(width, heads) for _ in range(config.num_hidden_layers))
        self.vote = nn.Linear(width, 1)
        self.norm = nn.LayerNorm(width)

    def forward(self, mels: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Log-mel [N, n_mels, F] of sounds of `frames` int64 [N] frames -> [T, hidden], T the sum of `halved`."""
        return self.states(mels, frames)[-1]

    def states(self, mels: torch.Tensor, frames: torch.Tensor) -> list[torch.Tensor]:
        """What each pair of layers sees, its bands' mean, and the output: [T, hidden] each."""
        lengths, count = halved(frames).tolist(), self.config.bands
        x = torch.cat([self._cells(mel, int(kept)) for mel, kept in zip(mels, frames, strict=True)])
        device = x.device
        rows = torch.arange(len(x) * count, device=device).view(len(x), count)
        by_band = torch.cat([piece.T.flatten() for piece in rows.split(lengths)])
        back = torch.argsort(by_band)
        times = Borders.of([length for length in lengths for _ in range(count)], device)
        moments = Borders.of([count] * len(x), device)
        cells, seen = x.flatten(0, 1), [x.mean(1)]
        for time, band in zip(self.along_time, self.along_bands, strict=True):
            cells = band(time(cells[by_band], times)[back], moments)
            seen.append(cells.view(len(x), count, -1).mean(1))
        whole = self.norm(cells).view(len(x), count, -1)
        return [*seen[:-1], (self.vote(whole).softmax(1) * whole).sum(1)]

    def _cells(self, mel: torch.Tensor, frames: int) -> torch.Tensor:
        """One sound [n_mels, F] of so many frames -> [halved(frames), bands, hidden]; an odd last frame is followed by
        nothing."""
        kept = nn.functional.pad(mel[:, :frames], (0, frames % 2)).to(self.cells.weight.dtype)
        pairs = kept.view(self.config.bands, -1, kept.shape[1] // 2, 2).permute(2, 0, 1, 3).flatten(2)
        x: torch.Tensor = self.cells(pairs) + self.bands
        return x + sinusoids(len(x), x.shape[-1]).to(x)[:, None]
