"""Connectors that pool every picture to one grid: adaptive averages, and Honeybee's C-Abstractor."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import nn
from torch.nn import functional as F

from mmdata.spec import Model
from mmtrain.models.connectors.patches import Patches, alike


def square(value: int) -> int:
    """The number of a square grid's cells. Raises ValueError for another."""
    if math.isqrt(value) ** 2 != value:
        raise ValueError(f"{value} tokens are no square grid; {math.isqrt(value) ** 2} would be one")
    return value


class AdaptivePoolSpec(Model):
    """Every picture is averaged to a square grid of `tokens` vectors, whatever its own (bins as in
    torch's `adaptive_avg_pool2d`), then two linear layers with a GELU between: [P, width] -> [N * tokens, out]. (The
    simplest of projectors with locality: Honeybee, Cha et al. 2024, arXiv 2312.06742, §3; DeCo, arXiv 2405.20985.)"""

    kind: Literal["adaptive_pool"]
    tokens: int = Field(144, ge=1)
    """Of each picture; a square number."""
    merges: ClassVar[bool] = False
    _whole = field_validator("tokens")(square)


class CAbstractorSpec(Model):
    """Convolutions, adaptive average pooling, convolutions, an MLP: every picture becomes `tokens` vectors,
    [P, width] -> [N * tokens, out]. Each stage is `depth` ResNet bottlenecks of RegNet with depthwise 3 x 3 and
    squeeze-and-excitation, layer norms and SiLU. (C-Abstractor of Honeybee: Cha et al. 2024, arXiv 2312.06742, §3.3;
    `timm.models.regnet.RegStage`.) Positions are not added: pictures have grids of many sizes here."""

    kind: Literal["c_abstractor"]
    tokens: int = Field(144, ge=1)
    """Of each picture; a square number."""
    hidden: int | None = Field(None, ge=8)
    """Channels of the convolutions; as wide as the tower by default."""
    depth: int = Field(3, ge=1)
    """Bottlenecks before the pooling, and as many behind it."""
    merges: ClassVar[bool] = False
    _whole = field_validator("tokens")(square)


class AdaptivePool(nn.Module):
    """`AdaptivePoolSpec`."""

    def __init__(self, spec: AdaptivePoolSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        self.side = math.isqrt(spec.tokens)
        self.up = nn.Linear(width, out)
        self.down = nn.Linear(out, out)

    def forward(self, patches: Patches) -> torch.Tensor:
        pools = alike(
            patches, patches.whole("adaptive_pool"), lambda x, grid: _tokens(_pooled(_planes(x, grid), self.side))
        )
        made: torch.Tensor = self.down(F.gelu(self.up(torch.cat(pools))))
        return made


class CAbstractor(nn.Module):
    """`CAbstractorSpec`."""

    def __init__(self, spec: CAbstractorSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        self.side = math.isqrt(spec.tokens)
        hidden = spec.hidden or width
        self.before = _stage(spec.depth, width, hidden)
        self.behind = _stage(spec.depth, hidden, hidden)
        self.up = nn.Linear(hidden, out)
        self.down = nn.Linear(out, out)

    def forward(self, patches: Patches) -> torch.Tensor:
        def pooled(x: torch.Tensor, grid: Hashable) -> torch.Tensor:
            return _tokens(self.behind(_pooled(self.before(_planes(x, grid)), self.side)))

        rows = torch.cat(alike(patches, patches.whole("c_abstractor"), pooled))
        made: torch.Tensor = self.down(F.silu(self.up(rows)))
        return made


class Bottleneck(nn.Module):
    """RegNet's: 1 x 1, depthwise 3 x 3, squeeze and excitation, 1 x 1, each with a norm, added to what came in:
    [n, inside, H, W] -> [n, outside, H, W]. (Radosavovic et al. 2020, arXiv 2003.13678; timm.)"""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 1, bias=False)
        self.norm1 = ChannelNorm(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, groups=outside, bias=False)
        self.norm2 = ChannelNorm(outside)
        squeezed = max(1, round(inside / 4))
        self.squeeze = nn.Conv2d(outside, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, outside, 1)
        self.conv3 = nn.Conv2d(outside, outside, 1, bias=False)
        self.norm3 = ChannelNorm(outside)
        self.shortcut: nn.Module = nn.Identity()
        if inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, bias=False), ChannelNorm(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.silu(self.norm1(self.conv1(x)))
        inner = F.silu(self.norm2(self.conv2(inner)))
        gate = self.excite(F.silu(self.squeeze(inner.mean((2, 3), keepdim=True))))
        inner = self.norm3(self.conv3(inner * gate.sigmoid()))
        return F.silu(inner + self.shortcut(x))


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of planes [n, C, H, W]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _stage(depth: int, inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(*(Bottleneck(inside if not at else outside, outside) for at in range(depth)))


def _planes(x: torch.Tensor, grid: Any) -> torch.Tensor:
    """[n, rows * columns, C] in raster order -> [n, C, rows, columns]."""
    return x.transpose(1, 2).unflatten(2, grid)


def _pooled(planes: torch.Tensor, side: int) -> torch.Tensor:
    return F.adaptive_avg_pool2d(planes, (side, side))


def _tokens(planes: torch.Tensor) -> torch.Tensor:
    return planes.flatten(2).transpose(1, 2)
