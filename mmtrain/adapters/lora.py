"""LoRA, rsLoRA and DoRA as a child of the linear layer they change, and how they begin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from mmtrain.adapters.spec import LoraSpec


class Lora(nn.Module):
    """W + scaling * (B A - B0 A0) for a layer of weight W [out, in], all in float32.

    `a` [rank, in] and `b` [out, rank] are trained. `a0` and `b0` are there only for a start with B A other than zero
    (PiSSA): what the two were at first, so that the layer begins as it was and its own weight is never touched. DoRA
    has `magnitude` [out] too, the length of each row, and only the direction of the row comes from the sum. As in
    section 4.3 of its paper, no gradient goes through the row's length.
    """

    a0: torch.Tensor | None
    b0: torch.Tensor | None
    magnitude: nn.Parameter | None

    def __init__(self, spec: LoraSpec, weight: torch.Tensor, rank: int, draws: np.random.Generator) -> None:
        super().__init__()
        self.rank = rank
        self.scaling = spec.alpha / (math.sqrt(rank) if spec.kind == "rslora" else rank)
        self.dropout = nn.Dropout(spec.dropout)
        a, b = _start(spec.init, weight.detach().float(), rank, self.scaling, draws)
        a, b = a.contiguous(), b.contiguous()  # `fully_shard` takes no others
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        moved = spec.init == "pissa"
        self.register_buffer("a0", a.clone() if moved else None)
        self.register_buffer("b0", b.clone() if moved else None)
        rows = torch.linalg.norm(weight.detach().float(), dim=1) if spec.kind == "dora" else None
        self.register_parameter("magnitude", None if rows is None else nn.Parameter(rows))

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B [out, k] and A [k, in] whose product, times the scaling, is all that is added: k is the rank, or twice."""
        if self.a0 is None or self.b0 is None:
            return self.b, self.a
        return torch.cat([self.b, -self.b0], 1), torch.cat([self.a, self.a0])

    def forward(self, inputs: torch.Tensor, output: torch.Tensor, layer: Any) -> torch.Tensor:
        """The layer's output, changed: inputs [..., in], output [..., out], in the dtype of `output`."""
        b, a = self.factors()
        added = F.linear(F.linear(self.dropout(inputs.to(a.dtype)), a), b) * self.scaling
        if self.magnitude is None:
            return output + added.to(output.dtype)
        with torch.no_grad():
            share = 1 / torch.linalg.norm(matrix(layer).float() + self.scaling * (b @ a).float(), dim=1)
        bias = 0 if layer.bias is None else layer.bias
        return ((self.magnitude * share) * ((output - bias) + added) + bias).to(output.dtype)

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight [out, in] of a layer that does the same alone."""
        b, a = self.factors()
        total = weight.float() + self.scaling * (b @ a)
        if self.magnitude is not None:
            total = self.magnitude[:, None] * total / torch.linalg.norm(total, dim=1, keepdim=True)
        return total


def matrix(layer: Any) -> torch.Tensor:
    """The weight of a linear layer as [out, in]: turned around if it is GPT-2's, in full if it is kept in 4 bits."""
    weight: Any = layer.dequantised() if hasattr(layer, "dequantised") else layer.weight
    return weight.T if isinstance(layer, Conv1D) else weight


def normal(draws: np.random.Generator, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Standard normal float32 values on the device of `like`, the same on every device."""
    return torch.from_numpy(draws.standard_normal(shape, dtype=np.float32)).to(like.device)


def uniform(draws: np.random.Generator, shape: tuple[int, ...], bound: float, like: torch.Tensor) -> torch.Tensor:
    """Float32 values between -bound and bound on the device of `like`."""
    values = (2 * draws.random(shape, dtype=np.float32) - 1) * np.float32(bound)
    return torch.from_numpy(values).to(like.device)


def _start(
    init: str, weight: torch.Tensor, rank: int, scaling: float, draws: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, in] and B [out, rank] as peft 0.21 draws them for `init_lora_weights`, from other random numbers."""
    outputs, inputs = weight.shape
    if init == "pissa":
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        missing = max(0, rank - len(s))  # a layer smaller than the rank: the rest is zero and stays of no use
        root = (s[:rank] / scaling).sqrt()
        return F.pad(root[:, None] * v[:rank], (0, 0, 0, missing)), F.pad(u[:, :rank] * root, (0, missing))
    if init == "orthogonal":  # rows of B and columns of A in spaces that share nothing: B A = 0
        q = torch.linalg.qr(normal(draws, (rank, rank), weight))[0]
        a = (normal(draws, (inputs, rank // 2), weight) @ q[0::2]).T / 10
        return a, normal(draws, (outputs, rank // 2), weight) @ q[1::2] / 10
    zero = torch.zeros(outputs, rank, device=weight.device)
    if init == "gaussian":
        return normal(draws, (rank, inputs), weight) / rank, zero
    return uniform(draws, (rank, inputs), 1 / math.sqrt(inputs), weight), zero  # kaiming_uniform_(a=sqrt(5))
