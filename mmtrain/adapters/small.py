"""IA3, prefix and bottleneck adapters: each a child of the module it changes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mmtrain.adapters.lora import normal, uniform
from mmtrain.adapters.spec import BottleneckSpec, PrefixSpec

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


class IA3(nn.Module):
    """Factors `scale` [width] float32 on what comes out of a linear layer, or on what goes in; 1 at first."""

    def __init__(self, width: int, like: torch.Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width, device=like.device))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values [..., width], scaled, in their own dtype."""
        return (values * self.scale).to(values.dtype)


class Bottleneck(nn.Module):
    """scale * up(activation(down(x))) beside a module; `up` is zero at first, so that nothing is added."""

    def __init__(self, spec: BottleneckSpec, inputs: int, outputs: int, like: torch.Tensor, draws: np.random.Generator):
        super().__init__()
        self.parallel, self.scale, self.activation = spec.mode == "parallel", spec.scale, ACTIVATIONS[spec.activation]
        self.dropout = nn.Dropout(spec.dropout)
        self.down = nn.Parameter(uniform(draws, (spec.hidden, inputs), 1 / math.sqrt(inputs), like))
        self.down_bias = nn.Parameter(torch.zeros(spec.hidden, device=like.device))
        self.up = nn.Parameter(torch.zeros(outputs, spec.hidden, device=like.device))
        self.up_bias = nn.Parameter(torch.zeros(outputs, device=like.device))

    def forward(self, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The module's output [..., outputs] with what is learned from it, or (parallel) from its input, added."""
        source = self.dropout((inputs if self.parallel else output).to(self.down.dtype))
        inner = self.activation(F.linear(source, self.down, self.down_bias))
        return output + (self.scale * F.linear(inner, self.up, self.up_bias)).to(output.dtype)


class Prefix(nn.Module):
    """`keys` and `values` [length, heads, D] float32 that each segment of a row sees before its own.

    `mmtrain.attention.hf_attention` asks the module that it works for. Positions do not move: the keys are taken as
    they are, without a rotation, and the first token of a segment keeps position 0. (peft counts the prefix in; the
    export turns the keys so that both come to the same.)
    """

    def __init__(self, spec: PrefixSpec, heads: int, width: int, like: torch.Tensor, draws: np.random.Generator):
        super().__init__()
        shape = (spec.length, heads, width)
        self.keys = nn.Parameter(normal(draws, shape, like) * spec.std)
        self.values = nn.Parameter(normal(draws, shape, like) * spec.std)

    def forward(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        borders: torch.Tensor | None,
        longest: int | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None, int | None]:
        """Keys and values [B, heads, T, D] with the prefix in front of every row, or, where `borders` (cu_seqlens of
        the keys, int32 [S + 1]) are given, of every segment; and mask, borders and longest segment to go with them.

        The last query still stands at the last key, so a causal mask lets every query see all of the prefix."""
        length = len(self.keys)
        keys, values = (x.transpose(0, 1)[None].to(key.dtype) for x in (self.keys, self.values))
        key, value = (
            torch.cat([own.expand(given.shape[0], -1, -1, -1), given], 2)
            for own, given in ((keys, key), (values, value))
        )
        if mask is not None:  # bool: True is seen; additive: 0 is; of keys alone: 1 is
            seen = 0.0 if mask.ndim == 4 and mask.is_floating_point() else 1
            return key, value, F.pad(mask, (length, 0), value=seen), borders, longest
        if borders is None:
            return key, value, None, None, longest
        segments = len(borders) - 1
        moved = borders + length * torch.arange(segments + 1, dtype=borders.dtype, device=borders.device)
        place = torch.arange(key.shape[2] + (segments - 1) * length, device=key.device)
        mine = torch.searchsorted(moved[1:].contiguous(), place.to(moved.dtype), right=True)
        inside = place - moved[mine]
        # Row `length + t` of what was put together above is token t; the rows before are the prefix.
        source = torch.where(inside < length, inside, inside + borders[mine])
        longest = None if longest is None else longest + length
        return key.index_select(2, source), value.index_select(2, source), None, moved, longest
