"""Connectors that make a token of each block of patches: a linear map, an MLP, pixel shuffle, Qwen2-VL's merger."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F

from mmdata.spec import Model
from mmtrain.models.connectors.patches import Patches


class LinearSpec(Model):
    """One linear layer on merged patches: [P, width] -> [P / merge^2, out]. (LLaVA: Liu et al. 2023, arXiv 2304.08485,
    §4.1; MiniGPT-4.)"""

    kind: Literal["linear"]
    merges: ClassVar[bool] = True


class MlpSpec(Model):
    """Two linear layers with a GELU between on merged patches: [P, width] -> [P / merge^2, out]. (`mlp2x_gelu` of
    LLaVA-1.5: Liu et al. 2023, arXiv 2310.03744, where `norm` is false.)"""

    kind: Literal["mlp"] = "mlp"
    norm: bool = True
    """Whether each patch is normalised before."""
    merges: ClassVar[bool] = True


class PixelShuffleSpec(Model):
    """Pixel shuffle: the channels of merge x merge patches become one vector, in raster order, and that a token:
    [P, width] -> [P, merge^2 * width] / merge^2 -> [P / merge^2, out]. (InternVL 1.5: Chen et al. 2024,
    arXiv 2404.16821; Idefics3: Laurençon et al. 2024, arXiv 2408.12637.)"""

    kind: Literal["pixel_shuffle"]
    projection: Literal["mlp", "linear"] = "mlp"
    """A norm of the whole vector and two layers with a GELU between (InternVL), or one layer without bias (Idefics3,
    SmolVLM)."""
    merges: ClassVar[bool] = True


class PatchMergerSpec(Model):
    """A norm of each patch, then an MLP as wide as 2 x 2 of them together: [P, width] -> [P / merge^2, merge^2 * width]
    -> GELU -> [P / merge^2, out]. (`PatchMerger` of Qwen2-VL: Wang et al. 2024, arXiv 2409.12191, §2.1.)"""

    kind: Literal["patch_merger"]
    merges: ClassVar[bool] = True


class Linear(nn.Module):
    """`LinearSpec`."""

    def __init__(self, spec: LinearSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        self.merged = merge**2
        self.proj = nn.Linear(width * merge**2, out)

    def forward(self, patches: Patches) -> torch.Tensor:
        made: torch.Tensor = self.proj(_merged(patches.rows, self.merged))
        return made


class Mlp(nn.Module):
    """`MlpSpec`."""

    def __init__(self, spec: MlpSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        self.merged = merge**2
        self.norm = nn.LayerNorm(width) if spec.norm else nn.Identity()
        self.up = nn.Linear(width * merge**2, out)
        self.down = nn.Linear(out, out)

    def forward(self, patches: Patches) -> torch.Tensor:
        made: torch.Tensor = self.down(F.gelu(self.up(_merged(self.norm(patches.rows), self.merged))))
        return made


class PixelShuffle(nn.Module):
    """`PixelShuffleSpec`."""

    def __init__(self, spec: PixelShuffleSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        self.merged = merge**2
        whole = width * merge**2
        if spec.projection == "linear":
            self.proj: nn.Module = nn.Linear(whole, out, bias=False)
        else:
            self.proj = nn.Sequential(nn.LayerNorm(whole), nn.Linear(whole, out), nn.GELU(), nn.Linear(out, out))

    def forward(self, patches: Patches) -> torch.Tensor:
        made: torch.Tensor = self.proj(_merged(patches.rows, self.merged))
        return made


class PatchMerger(nn.Module):
    """`PatchMergerSpec`."""

    def __init__(self, spec: PatchMergerSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        self.merged = merge**2
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width * merge**2, width * merge**2)
        self.down = nn.Linear(width * merge**2, out)

    def forward(self, patches: Patches) -> torch.Tensor:
        made: torch.Tensor = self.down(F.gelu(self.up(_merged(self.norm(patches.rows), self.merged))))
        return made


def _merged(rows: torch.Tensor, merged: int) -> torch.Tensor:
    return rows.reshape(-1, merged * rows.shape[-1])
