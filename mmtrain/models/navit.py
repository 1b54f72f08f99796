"""The native vision tower: patches of many pictures in one row, none padded, each picture seeing itself alone."""

from __future__ import annotations

import torch
from torch import nn

from mmdata.views.rotary import rope_2d
from mmtrain.models.configs import NavitConfig
from mmtrain.models.layers import Borders, Layer


class Navit(nn.Module):
    """A pre-norm ViT over varlen rows (Dehghani et al. 2023, arXiv 2307.06304).

    `rope`: queries and keys turn with row and column (Qwen2-VL's frequencies). `factorised`: a learned vector for the
    row and one for the column are added to each patch (NaViT's factorised absolute positions).
    """

    def __init__(self, config: NavitConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.hidden_size // config.num_attention_heads
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, config.hidden_size)
        if config.positions == "factorised":
            self.rows = nn.Embedding(config.max_grid, config.hidden_size)
            self.columns = nn.Embedding(config.max_grid, config.hidden_size)
        self.layers = nn.ModuleList(
            Layer(config.hidden_size, config.num_attention_heads) for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, patches: torch.Tensor, coordinates: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """Patches [P, 3 * patch^2] and their (row, column) int64 [P, 2] of pictures of `lengths` -> [P, hidden].

        Raises ValueError for lengths that do not add up, and for pictures larger than the tables of `factorised`."""
        if sum(lengths) != len(patches):
            raise ValueError(f"pictures of {sum(lengths)} patches, but {len(patches)} patches")
        x = self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))
        rotary = None
        if self.config.positions == "factorised":
            if len(coordinates) and int(coordinates.max()) >= self.config.max_grid:
                raise ValueError(
                    f"a picture of {int(coordinates.max()) + 1} rows or columns; max_grid: {self.config.max_grid}"
                )
            row, column = coordinates.unbind(-1)
            x = x + self.rows(row) + self.columns(column)
        else:
            # Made on the CPU in float32, as the models that use it do, and the same on every device.
            rotary = tuple(angle.to(x.device) for angle in rope_2d(coordinates.cpu(), self.width))  # type: ignore[assignment]
        borders = Borders.of(lengths, x.device)
        for layer in self.layers:
            x = layer(x, borders, rotary)
        return self.norm(x)
