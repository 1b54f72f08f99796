"""The transformer layer of our towers: pre-norm, attention inside borders only, no padding anywhere."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from mmdata.views.rotary import rotate
from mmtrain.attention import varlen_attention

FFN_RATIO = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Borders:
    """Where the pieces of a row begin and end: `cu_seqlens` int32 [S + 1], and the longest of them."""

    cu_seqlens: torch.Tensor
    longest: int

    @staticmethod
    def of(lengths: list[int], device: torch.device) -> Borders:
        """Of pieces of these lengths; empty ones are left out.

        >>> Borders.of([2, 0, 3], torch.device("cpu")).cu_seqlens.tolist()
        [0, 2, 5]
        """
        kept = [length for length in lengths if length]
        ends = [0, *itertools.accumulate(kept)]
        return Borders(cu_seqlens=torch.tensor(ends, dtype=torch.int32, device=device), longest=max(kept, default=0))


class Layer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)): [T, hidden] -> [T, hidden]. (Whisper's and NaViT's layer.)"""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.mlp_norm = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, FFN_RATIO * hidden)
        self.down = nn.Linear(FFN_RATIO * hidden, hidden)

    def forward(
        self, x: torch.Tensor, borders: Borders, rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """`rotary` are cosines and sines [T, hidden / heads] by which queries and keys are turned."""
        query, key, value = self.qkv(self.attention_norm(x)).view(len(x), 3, self.heads, -1).unbind(1)
        if rotary is not None:
            cos, sin = (angle[:, None].to(x.dtype) for angle in rotary)  # the same for every head
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        cu, longest = borders.cu_seqlens, borders.longest
        seen = varlen_attention(query, key, value, cu, cu, longest, longest)
        x = x + self.out(seen.flatten(1))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))
