"""Our tower of patches: those of many pictures in one row, none padded, each picture seeing itself alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mmdata.views.positions import resize_table
from mmdata.views.rotary import rope_2d
from mmtrain.models.configs import NavitConfig
from mmtrain.models.layers import Bias, Borders, Layer, norm_of

Grids = Sequence[tuple[int, int]]


class Navit(nn.Module):
    """A pre-norm ViT over varlen rows (Dehghani et al. 2023, arXiv 2307.06304).

    Where a patch lies is told by `positions`:
    - `rope`: queries and keys turn with row and column (Qwen2-VL's frequencies).
    - `factorised`: a learned vector for the row and one for the column are added to each patch (NaViT's factorised
      absolute positions; Pix2Struct).
    - `table`: a learned square of `max_grid` x `max_grid` vectors, resized to each picture's grid, is added (SigLIP 2
      NaFlex: Tschannen et al. 2025, arXiv 2502.14786; `mmdata.views.positions.resize_table`). Wants whole grids.
    - `bias`: a learned value for the distance in rows and one for that in columns are added to each score of each head
      (`relative_bias`).
    A tower of no layers answers the patches as they are (Fuyu, whose connector is its only projection).
    """

    def __init__(self, config: NavitConfig) -> None:
        super().__init__()
        self.config = config
        self.mixup = config.mixup
        hidden, heads = config.hidden_size, config.num_attention_heads
        if not config.num_hidden_layers:
            self.layers = nn.ModuleList()
            return
        self.width = config.head_width or hidden // heads
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, hidden)
        if config.positions == "factorised":
            self.rows = nn.Embedding(config.max_grid, hidden)
            self.columns = nn.Embedding(config.max_grid, hidden)
        elif config.positions == "table":
            self.table = nn.Embedding(config.max_grid**2, hidden)
        elif config.positions == "bias":
            self.row_bias = nn.Embedding(2 * config.max_grid - 1, heads)
            self.column_bias = nn.Embedding(2 * config.max_grid - 1, heads)
        told: dict[str, Any] = {"head_width": config.head_width, "inner": config.intermediate_size, "bias": config.bias}
        told |= {"activation": config.activation, "gated": config.gated, "scale": config.attention_scale}
        told |= {"norm": config.norm, "eps": config.layer_norm_eps}
        # Behind what is before them, for rules go by the order of parameters.
        self.layers = nn.ModuleList(Layer(hidden, heads, **told) for _ in range(config.num_hidden_layers))
        self.norm = norm_of(config.norm, hidden, config.layer_norm_eps)  # type: ignore[arg-type]

    def forward(
        self,
        patches: torch.Tensor,
        coordinates: torch.Tensor,
        lengths: list[int],
        grids: Grids | None = None,
        layer: int = -1,
    ) -> torch.Tensor:
        """Patches [P, 3 * patch^2] and their (row, column) int64 [P, 2] of pictures of `lengths` -> [P, hidden].

        What stands before the pixels in a row of patches is left out. `grids` are the (rows, columns) of whole
        pictures. `layer` is whose output is taken: -1 the last one's, through the norm; -2 that of the layer before it,
        as it is; later ones do not run.

        Raises ValueError for lengths that do not add up, and for pictures that the positions cannot tell."""
        if sum(lengths) != len(patches):
            raise ValueError(f"pictures of {sum(lengths)} patches, but {len(patches)} patches")
        patches = patches[:, -3 * self.config.patch_size**2 :]
        if not len(self.layers):
            return patches
        x = self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))
        x, rotary, bias = self._placed(x, coordinates, lengths, grids)
        borders = Borders.of(lengths, x.device)
        for each in self.layers[: len(self.layers) + 1 + layer]:
            x = each(x, borders, rotary, bias=bias)
        return self.norm(x) if layer == -1 else x

    def _placed(
        self, x: torch.Tensor, coordinates: torch.Tensor, lengths: list[int], grids: Grids | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None, Bias | None]:
        """Patches with what is added to them, the angles of queries and keys, and what is added to scores."""
        config = self.config
        if config.positions == "factorised":
            if len(coordinates) and int(coordinates.max()) >= config.max_grid:
                raise ValueError(
                    f"a picture of {int(coordinates.max()) + 1} rows or columns; max_grid: {config.max_grid}"
                )
            row, column = coordinates.unbind(-1)
            return x + self.rows(row) + self.columns(column), None, None
        if config.positions == "table":
            if grids is None:
                raise ValueError("positions: table wants whole grids of patches, and some were dropped")
            square = self.table.weight.view(config.max_grid, config.max_grid, -1)
            each = {grid: resize_table(square, *grid, variant="naflex") for grid in set(grids)}
            pieces = zip(grids, coordinates.split(lengths), strict=True)
            added = [each[grid][place[:, 0] * grid[1] + place[:, 1]] for grid, place in pieces]
            return x + torch.cat(added), None, None
        if config.positions == "bias":
            return x, None, relative_bias(self.row_bias.weight, self.column_bias.weight, coordinates)
        # Made on the CPU in float32, as the models that use it do, and the same on every device.
        cos, sin = rope_2d(coordinates.cpu(), self.width)
        return x, (cos.to(x.device), sin.to(x.device)), None


def relative_bias(rows: torch.Tensor, columns: torch.Tensor, coordinates: torch.Tensor) -> Bias:
    """rows[r_t - r_u] + columns[c_t - c_u] for each query t and key u, by tables [2 * D - 1, heads] whose middle is a
    distance of 0; farther than D - 1 counts as D - 1. (The row and column terms of LayoutLMv2: Xu et al. 2021,
    arXiv 2012.14740, §2.1, by whole distances and not buckets; Swin has one table for both, Liu et al. 2021,
    arXiv 2103.14030, eq. 4.)

    No matrix of T x T is made, and no kernel needs to know: a query carries what it would add for each row and column
    of a key, a key a 1 where it lies. Heads are that much wider, at most 256 on CUDA.
    """
    made = [_axis(table, places) for table, places in zip((rows, columns), coordinates.unbind(-1), strict=True)]
    return Bias(query=torch.cat([query for query, _ in made], -1), key=torch.cat([key for _, key in made], -1))


def _axis(table: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    size, farthest = int(places.max()) + 1 if len(places) else 1, len(table) // 2
    distance = places[:, None] - torch.arange(size, device=places.device)
    each = table[distance.clamp(-farthest, farthest) + farthest]  # [T, size, heads]
    return each.transpose(1, 2), F.one_hot(places, size).to(table.dtype)
