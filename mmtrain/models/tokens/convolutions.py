"""From pixels to a grid of vectors and back: strided convolutions and residual blocks."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

GROUPS = 8


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))): [N, C, H, W] -> the same (He et al. 2016; norms as in VQGAN: Esser et
    al. 2021, arXiv 2012.09841, appendix A)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        groups = math.gcd(GROUPS, channels)
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return made


class Encoder(nn.Module):
    """Pixels [N, 3, H, W] in [-1, 1] -> [N, out, H / stride, W / stride], `stride` a power of two."""

    def __init__(self, channels: int, stride: int, blocks: int, out: int) -> None:
        super().__init__()
        steps = int(math.log2(stride))
        self.inward = nn.Conv2d(3, channels, 3, padding=1)
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 4, stride=2, padding=1), Residual(channels))
            for _ in range(steps)
        )
        self.blocks = nn.Sequential(*(Residual(channels) for _ in range(blocks)))
        self.outward = nn.Conv2d(channels, out, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.inward(pixels)
        for down in self.downs:
            x = down(x)
        made: torch.Tensor = self.outward(self.blocks(x))
        return made


class Decoder(nn.Module):
    """A grid of vectors [N, inside, h, w] -> pixels [N, 3, h * stride, w * stride], not clipped."""

    def __init__(self, channels: int, stride: int, blocks: int, inside: int) -> None:
        super().__init__()
        steps = int(math.log2(stride))
        self.inward = nn.Conv2d(inside, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(channels) for _ in range(blocks)))
        self.ups = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2.0), nn.Conv2d(channels, channels, 3, padding=1), Residual(channels)
            )
            for _ in range(steps)
        )
        self.outward = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, 3, 3, padding=1))

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.inward(grid))
        for up in self.ups:
            x = up(x)
        made: torch.Tensor = self.outward(x)
        return made


class Discriminator(nn.Module):
    """Whether patches of a picture are real: [N, 3, H, W] -> logits [N, 1, h, w] (PatchGAN: Isola et al. 2017, arXiv
    1611.07004, §3.2.2)."""

    def __init__(self, channels: int = 32, layers: int = 2) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        inside = 3
        for at in range(layers):
            outside = channels * 2**at
            parts += [nn.Conv2d(inside, outside, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            inside = outside
        self.layers = nn.Sequential(*parts, nn.Conv2d(inside, 1, 3, padding=1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layers(pixels)
        return made
