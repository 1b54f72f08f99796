"""Whether sound and picture belong together in time, and how far they are apart: SyncNet's likeness over shifts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Shifted(NamedTuple):
    """Sound that was moved against its picture by `offset` steps: positive where it comes late."""

    sound: torch.Tensor
    offset: int


def shifted(sound: torch.Tensor, most: int, draw: np.random.Generator) -> Shifted:
    """The augmentation: sound [T, width], turned around by up to `most` steps to either side (`moved`).

    >>> shifted(torch.ones(3, 1), 0, np.random.default_rng(0)).offset
    0
    """
    offset = int(draw.integers(-most, most + 1))
    return Shifted(sound=moved(sound, offset), offset=offset)


def moved(sound: torch.Tensor, offset: int) -> torch.Tensor:
    """Sound [T, width] that comes `offset` steps later; what is moved out comes in again on the other side. Silence
    there would tell the offset to who looks at nothing else.

    >>> moved(torch.tensor([[1.0], [2.0], [3.0]]), 1)[:, 0].tolist()
    [3.0, 1.0, 2.0]
    """
    return torch.roll(sound, offset, 0)


class OffsetPredictor(nn.Module):
    """Vectors of pictures [T, seen] and of sound [T, heard] at the same steps -> how likely each offset from -most to
    most is. Both go through convolutions in time to unit vectors, and an offset is as likely as the mean likeness of
    pictures with the sound that many steps later, over a learned temperature (SyncNet: Chung and Zisserman 2016; the
    classification of offsets as in Iashin et al. 2022, arXiv 2210.07055)."""

    def __init__(self, seen: int, heard: int, *, most: int = 8, width: int = 32, kernel: int = 5) -> None:
        super().__init__()
        self.most = most
        self.of_picture = _through_time(seen, width, kernel)
        self.of_sound = _through_time(heard, width, kernel)
        self.scale = nn.Parameter(torch.tensor([3.0]))

    def forward(self, pictures: torch.Tensor, sounds: torch.Tensor) -> torch.Tensor:
        """[N, T, seen] and [N, T, heard] -> logits [N, 2 * most + 1] of the offsets -most, ..., most. Raises ValueError
        for fewer steps than offsets reach."""
        if pictures.shape[1] <= self.most:
            raise ValueError(f"{pictures.shape[1]} steps for offsets of up to {self.most}; longer clips, or fewer")
        a = F.normalize(self.of_picture(pictures.transpose(1, 2)), dim=1)
        b = F.normalize(self.of_sound(sounds.transpose(1, 2)), dim=1)
        steps = pictures.shape[1]
        likeness = []
        for offset in range(-self.most, self.most + 1):
            first, last = max(0, -offset), min(steps, steps - offset)
            likeness.append((a[..., first:last] * b[..., first + offset : last + offset]).sum(1).mean(-1))
        return torch.stack(likeness, -1) * self.scale.exp()

    @torch.no_grad()
    def offset(self, pictures: torch.Tensor, sounds: torch.Tensor) -> torch.Tensor:
        """The likeliest offset of each clip, int64 [N]."""
        return self(pictures, sounds).argmax(-1) - self.most

    def loss(self, logits: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the true offsets, int64 [N]."""
        return F.cross_entropy(logits, offsets + self.most)


def _through_time(inside: int, width: int, kernel: int) -> nn.Sequential:
    half = kernel // 2
    return nn.Sequential(
        nn.Conv1d(inside, width, kernel, padding=half), nn.GELU(), nn.Conv1d(width, width, kernel, padding=half)
    )
