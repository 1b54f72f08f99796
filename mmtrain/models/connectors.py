"""Connectors: from a tower's vectors to the language model's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


class Mlp(nn.Module):
    """A norm, then two layers on `merge` vectors at a time: [T * merge, in] -> [T, out]. (Qwen2-VL's merger.)"""

    def __init__(self, width: int, out: int, merge: int) -> None:
        super().__init__()
        self.merge = merge
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width * merge, out)
        self.down = nn.Linear(out, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(self.norm(x).reshape(-1, self.merge * x.shape[-1]))))


CONNECTORS: dict[str, Callable[[int, int, int], nn.Module]] = {"mlp": Mlp}
"""By the name in `model.connector.kind`; made of the tower's width, the language model's, and vectors per token."""


def in_blocks(x: torch.Tensor, rows: int, merge: int) -> torch.Tensor:
    """Patches [N, rows * columns, D] in raster order as blocks of merge x merge after each other (pixel unshuffle):
    [N * rows * columns, D].

    >>> in_blocks(torch.arange(8.0).view(1, 8, 1), 2, 2)[:, 0].tolist()
    [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]
    """
    count, patches, width = x.shape
    columns = patches // rows
    blocks = x.view(count, rows // merge, merge, columns // merge, merge, width).transpose(2, 3)
    return blocks.reshape(-1, width)
