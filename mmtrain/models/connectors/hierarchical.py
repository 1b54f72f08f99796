"""A connector that pools by attention twice: patches to regions, regions to tokens."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import nn

from mmdata.spec import Model
from mmtrain.models.connectors.patches import Patches
from mmtrain.models.connectors.pooled import square
from mmtrain.models.layers import Attention, Borders, Context


class HierarchicalPoolSpec(Model):
    """Each picture is cut into a square grid of `regions`; a learned query sees the patches of each region, and
    `tokens` learned queries see what it made of the regions: [P, width] -> [N * tokens, out], with norms before and a
    linear map behind. (Attention pooling level by level: Yang et al. 2016, "Hierarchical Attention Networks", §2.2,
    with heads in place of its one score.)"""

    kind: Literal["hierarchical_pool"]
    tokens: int = Field(16, ge=1)
    """Of each picture: the queries that see regions."""
    regions: int = Field(16, ge=1)
    """Of each picture, a square number; of one with fewer rows or columns, those in which a patch lies."""
    heads: int = Field(8, ge=1)
    merges: ClassVar[bool] = False
    _whole = field_validator("regions")(square)


class HierarchicalPool(nn.Module):
    """`HierarchicalPoolSpec`."""

    def __init__(self, spec: HierarchicalPoolSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        self.tokens, self.side = spec.tokens, math.isqrt(spec.regions)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(nn.init.normal_(torch.empty(1, width), std=0.02))
        self.attention = Attention(width, spec.heads, context=width)
        self.region_norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(nn.init.normal_(torch.empty(spec.tokens, width), std=0.02))
        self.region_attention = Attention(width, spec.heads, context=width)
        self.out = nn.Linear(width, out)

    def forward(self, patches: Patches) -> torch.Tensor:
        device, order, inside, regions, start = patches.rows.device, [], [], [], 0
        for rows, columns in patches.whole("hierarchical_pool"):
            down = torch.arange(rows) * self.side // rows
            along = torch.arange(columns) * self.side // columns
            region = (down[:, None] * self.side + along).flatten()
            lengths = torch.bincount(region)
            inside += lengths[lengths > 0].tolist()
            regions.append(int((lengths > 0).sum()))
            order.append(region.argsort(stable=True) + start)
            start += rows * columns
        seen = Context(rows=self.norm(patches.rows)[torch.cat(order).to(device)], borders=Borders.of(inside, device))
        ones = Borders.of([1] * len(inside), device)
        made = self.region_norm(self.attention(self.query.expand(len(inside), -1), ones, seen))
        mine = Borders.of([self.tokens] * len(regions), device)
        queries = self.queries.repeat(len(regions), 1)
        found = self.region_attention(queries, mine, Context(rows=made, borders=Borders.of(regions, device)))
        answer: torch.Tensor = self.out(found)
        return answer
