"""Connectors with learned queries that look at a picture: cross-attention (Qwen-VL), the Perceiver Resampler."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from mmdata.spec import Model
from mmdata.views.positions import resize_table, sincos_2d
from mmtrain.models.connectors.patches import Patches
from mmtrain.models.layers import Attention, Borders, Context, Layer


class CrossAttentionSpec(Model):
    """One layer of attention in which `tokens` learned queries see the picture: [P, width] -> [N * tokens, out]. The
    picture is mapped to `hidden` and normalised; positions are added to queries and keys, not to values; what comes out
    is normalised and mapped. (`Resampler` of Qwen-VL: Bai et al. 2023, arXiv 2308.12966, §2.1.)"""

    kind: Literal["cross_attention"]
    tokens: int = Field(256, ge=1)
    """Of each picture: the queries."""
    hidden: int | None = Field(None, ge=8)
    """As wide as the language model by default."""
    heads: int = Field(8, ge=1)
    positions: Literal["sincos", "none"] = "sincos"
    """Sines and cosines of row and column of a square grid of queries, resized (bicubic) for the picture's own grid; or
    none at all."""
    merges: ClassVar[bool] = False

    @model_validator(mode="after")
    def _square(self) -> Self:
        if self.positions == "sincos" and math.isqrt(self.tokens) ** 2 != self.tokens:
            raise ValueError(f"{self.tokens} tokens are no square grid, which positions: sincos wants; set none")
        return self


class PerceiverSpec(Model):
    """`layers` layers in which `tokens` latent vectors see the picture and themselves: [P, width] -> [N * tokens, out].
    Pre-norm, without biases, an MLP of four times the width with ReLU; a norm and a linear map at the end. (Perceiver
    Resampler of Flamingo: Alayrac et al. 2022, arXiv 2204.14198, §3.1.1; `IdeficsPerceiverResampler`.) Frames of a
    video are resampled one by one."""

    kind: Literal["perceiver"]
    tokens: int = Field(64, ge=1)
    """Of each picture: the latent vectors."""
    layers: int = Field(6, ge=1)
    heads: int = Field(16, ge=1)
    head_width: int = Field(96, ge=1)
    """Of each head: heads * head_width need not be the width."""
    hidden: int | None = Field(None, ge=8)
    """As wide as the tower by default; of another, what comes in is mapped to it."""
    merges: ClassVar[bool] = False


class CrossAttention(nn.Module):
    """`CrossAttentionSpec`."""

    table: torch.Tensor | None

    def __init__(self, spec: CrossAttentionSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        hidden = spec.hidden or out
        self.tokens = spec.tokens
        self.queries = nn.Parameter(torch.nn.init.trunc_normal_(torch.empty(spec.tokens, hidden), std=0.02))
        self.inward = nn.Linear(width, hidden, bias=False)
        self.query_norm = nn.LayerNorm(hidden, eps=1e-6)
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.attention = Attention(hidden, spec.heads, context=hidden)
        self.out_norm = nn.LayerNorm(hidden, eps=1e-6)
        self.out = nn.Linear(hidden, out, bias=False)
        self.side = math.isqrt(spec.tokens) if spec.positions == "sincos" else 0

    def forward(self, patches: Patches) -> torch.Tensor:
        count = len(patches.lengths)
        seen = self.norm(self.inward(patches.rows))
        queries, keys = self.query_norm(self.queries), None
        if self.side:
            table = torch.from_numpy(sincos_2d(self.side, self.side, queries.shape[-1], variant="mae")).to(queries)
            queries = queries + table
            square = table.view(self.side, self.side, -1)
            grids = patches.whole("cross_attention")
            codes = {grid: resize_table(square, *grid, variant="clip") for grid in dict.fromkeys(grids)}
            keys = seen + torch.cat([codes[grid] for grid in grids])
        context = Context(rows=seen, borders=Borders.of(patches.lengths, seen.device), keys=keys)
        mine = Borders.of([self.tokens] * count, seen.device)
        made: torch.Tensor = self.out(self.out_norm(self.attention(queries.repeat(count, 1), mine, context)))
        return made


class Perceiver(nn.Module):
    """`PerceiverSpec`."""

    def __init__(self, spec: PerceiverSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        hidden = spec.hidden or width
        self.tokens = spec.tokens
        self.latents = nn.Parameter(torch.randn(spec.tokens, hidden))
        self.inward = nn.Linear(width, hidden) if hidden != width else nn.Identity()
        self.layers = nn.ModuleList(
            Layer(hidden, spec.heads, sees="both", head_width=spec.head_width, bias=False, activation="relu")
            for _ in range(spec.layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, out)

    def forward(self, patches: Patches) -> torch.Tensor:
        count = len(patches.lengths)
        rows = self.inward(patches.rows)
        context = Context(rows=rows, borders=Borders.of(patches.lengths, rows.device))
        latents, mine = self.latents.repeat(count, 1), Borders.of([self.tokens] * count, rows.device)
        for layer in self.layers:
            latents = layer(latents, mine, context=context)
        made: torch.Tensor = self.out(self.norm(latents))
        return made
