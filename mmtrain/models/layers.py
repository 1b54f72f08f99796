"""Attention, MLP and layer of our modules: inside borders only, no padding anywhere.

Everything of ours that attends (towers, connectors, fusion) is made of `Attention`, whose rows are packed: what is
seen by a query lies in the segment of the same number, of the row itself or of another row (`context`). On CUDA that is
a varlen kernel, elsewhere its exact twin (`mmtrain.attention`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from mmdata.views.rotary import rotate
from mmtrain.attention import FULL, varlen_attention

FFN_RATIO = 4
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
Norm = Literal["layer", "rms"]
Sees = Literal["itself", "context", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Borders:
    """Where the pieces of a row begin and end: `cu_seqlens` int32 [S + 1], the longest of them, and all lengths."""

    cu_seqlens: torch.Tensor
    longest: int
    lengths: tuple[int, ...]

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device) -> Borders:
        """Of pieces of these lengths; empty ones are left out.

        >>> Borders.of([2, 0, 3], torch.device("cpu")).cu_seqlens.tolist()
        [0, 2, 5]
        """
        kept = tuple(length for length in lengths if length)
        ends = [0, *itertools.accumulate(kept)]
        cu_seqlens = torch.tensor(ends, dtype=torch.int32, device=device)
        return Borders(cu_seqlens=cu_seqlens, longest=max(kept, default=0), lengths=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the queries of a row see of another: `rows` [Tk, context], whose segment s is seen from segment s. `keys`
    [Tk, context] are what keys are made of, where that is other than what values are (positions added to it)."""

    rows: torch.Tensor
    borders: Borders
    keys: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValues:
    """What an attention makes of a context, and may be kept for later queries: both [Tk, heads, head width]."""

    key: torch.Tensor
    value: torch.Tensor
    borders: Borders


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """What is added to the scores of a row that sees itself, as products that a varlen kernel can take: of query t and
    key u it is `query`[t, head] . `key`[u]; [T, heads, E] and [T, E]."""

    query: torch.Tensor
    key: torch.Tensor


class Attention(nn.Module):
    """Each of Tq rows sees the rows of its own segment, or those of a context: [Tq, hidden] -> [Tq, hidden].

    Without `context`, the width of what is seen, a row sees itself, and one product (`qkv`) makes queries, keys and
    values; else there are `q`, `k` and `v`. `head_width` is hidden / heads unless it is said. (Vaswani et al. 2017.)
    With `rank`, the four maps of a cross-attention are products of two that meet in so few values. `scale` is what
    scores are multiplied by, in place of head width ** -0.5.
    """

    def __init__(
        self,
        hidden: int,
        heads: int,
        *,
        context: int | None = None,
        head_width: int | None = None,
        bias: bool = True,
        rank: int | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.scale = scale
        inner = heads * (head_width or hidden // heads)
        if context is None:
            self.qkv = nn.Linear(hidden, 3 * inner, bias=bias)
        else:
            self.q = _linear(hidden, inner, bias, rank)
            self.k = _linear(context, inner, bias, rank)
            self.v = _linear(context, inner, bias, rank)
        self.out = _linear(inner, hidden, bias, rank)

    def keep(self, context: Context) -> KeyValues:
        """The keys and values of a context, as `forward` makes them."""
        key = self._heads(self.k(context.rows if context.keys is None else context.keys))
        return KeyValues(key=key, value=self._heads(self.v(context.rows)), borders=context.borders)

    def forward(
        self,
        x: torch.Tensor,
        borders: Borders,
        context: Context | KeyValues | None = None,
        *,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        window: tuple[int, int] = FULL,
        choose: Choose | None = None,
        bias: Bias | None = None,
    ) -> torch.Tensor:
        """`rotary` are cosines and sines [T, head width] by which queries and keys of a row that sees itself are
        turned; `window` is as `varlen_attention` has it. `choose` says which keys of its segment a query sees, `bias`
        what is added to the scores of a row that sees itself."""
        if context is None:
            query, key, value = self.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)
            seen = borders
        else:
            query = self._heads(self.q(x))
            kept = self.keep(context) if isinstance(context, Context) else context
            key, value, seen = kept.key, kept.value, kept.borders
        if rotary is not None:
            # The same for every head, and of the type of the queries: under autocast a norm made float32 of x.
            cos, sin = (angle[:, None].to(query.dtype) for angle in rotary)
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if choose is not None:
            borders, kept = choose(query, borders, KeyValues(key=key, value=value, borders=seen))
            key, value, seen = kept.key, kept.value, kept.borders
        scale, width = self.scale, value.shape[-1]
        if bias is not None:
            query, key, value = _biased(query, key, value, bias, width**-0.5 if scale is None else scale)
            scale = 1.0
        places = borders.cu_seqlens, seen.cu_seqlens, borders.longest, seen.longest
        found = varlen_attention(query, key, value, *places, window=window, scale=scale)
        made: torch.Tensor = self.out(found[..., :width].flatten(1))
        return made

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), self.heads, -1)


Choose = Callable[[torch.Tensor, Borders, KeyValues], tuple[Borders, KeyValues]]
"""Of queries [Tq, heads, head width], their segments, and the keys of these: segments anew, of the same queries in the
same order, and what each sees."""


KERNEL_WIDTHS = 8
"""Varlen kernels take heads of multiples of this, up to 256."""


def _biased(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: Bias, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Heads made wider, so that the product of query and key is scale * query . key + bias; values end in zeros."""
    more = bias.key[:, None].expand(-1, key.shape[1], -1)
    query = torch.cat([query * scale, bias.query.to(query.dtype)], -1)
    key = torch.cat([key, more.to(key.dtype)], -1)
    fill = -query.shape[-1] % KERNEL_WIDTHS
    query, key = F.pad(query, (0, fill)), F.pad(key, (0, fill))
    return query, key, F.pad(value, (0, query.shape[-1] - value.shape[-1]))


def norm_of(kind: Norm, width: int, eps: float | None = None) -> nn.Module:
    """A norm of [T, width]: LayerNorm, or the root of the mean square alone (T5, Pix2Struct)."""
    if kind == "rms":
        return nn.RMSNorm(width, eps=1e-6 if eps is None else eps)
    return nn.LayerNorm(width, eps=1e-5 if eps is None else eps)


def _linear(width: int, out: int, bias: bool, rank: int | None) -> nn.Module:
    if rank is None:
        return nn.Linear(width, out, bias=bias)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, out, bias=bias))


class Mlp(nn.Module):
    """Two linear layers: [T, hidden] -> [T, hidden] by way of `inner` (4 * hidden unless it is said). With `gated`, a
    third one's product goes through the activation and scales the first's (SwiGLU: Shazeer 2020, arXiv 2002.05202)."""

    def __init__(
        self,
        hidden: int,
        inner: int | None = None,
        *,
        bias: bool = True,
        activation: Activation = "gelu",
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(hidden, inner or FFN_RATIO * hidden, bias=bias)
        self.gate_proj = nn.Linear(hidden, inner or FFN_RATIO * hidden, bias=bias) if gated else None
        self.down = nn.Linear(inner or FFN_RATIO * hidden, hidden, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        act, up = ACTIVATIONS[self.activation], self.up(x)
        made: torch.Tensor = self.down(act(up) if self.gate_proj is None else act(self.gate_proj(x)) * up)
        return made


class Layer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)): [T, hidden] -> [T, hidden].

    It `sees` itself (Whisper's, NaViT's and CLIP's layer), a context of width `context` with a norm of its own
    (cross-attention), or `both`, one after the other (the Perceiver's: Alayrac et al. 2022, arXiv 2204.14198, §3.1.1).
    """

    def __init__(
        self,
        hidden: int,
        heads: int,
        *,
        sees: Sees = "itself",
        context: int | None = None,
        head_width: int | None = None,
        inner: int | None = None,
        bias: bool = True,
        activation: Activation = "gelu",
        gated: bool = False,
        norm: Norm = "layer",
        eps: float | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.sees = sees
        self.attention_norm = norm_of(norm, hidden, eps)
        told: dict[str, Any] = {"head_width": head_width, "bias": bias, "scale": scale}
        if sees != "itself":
            width = context or hidden
            if sees == "both" and width != hidden:
                raise ValueError(f"a layer of width {hidden} sees itself and {width} wide rows; they must be as wide")
            self.context_norm = norm_of(norm, width, eps)
            self.attention = Attention(hidden, heads, context=width, **told)
        else:
            self.attention = Attention(hidden, heads, **told)
        self.mlp_norm = norm_of(norm, hidden, eps)
        self.mlp = Mlp(hidden, inner, bias=bias, activation=activation, gated=gated)

    def forward(
        self,
        x: torch.Tensor,
        borders: Borders,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        context: Context | None = None,
        bias: Bias | None = None,
        window: tuple[int, int] = FULL,
    ) -> torch.Tensor:
        """`rotary`, `bias` and `window` as `Attention` has them."""
        mine = self.attention_norm(x)
        if context is not None:
            context = Context(rows=self.context_norm(context.rows), borders=context.borders)
            if self.sees == "both":
                context = joined(context, Context(rows=mine, borders=borders))
        x = x + self.attention(mine, borders, context, rotary=rotary, bias=bias, window=window)
        made: torch.Tensor = x + self.mlp(self.mlp_norm(x))
        return made


def joined(first: Context, second: Context) -> Context:
    """Segments of two rows of equal width after each other: segment s of the first, then s of the second.

    >>> a, b = (Context(rows=torch.tensor(r)[:, None], borders=Borders.of(n, torch.device("cpu")))
    ...         for r, n in (([1, 2, 3], [2, 1]), ([7, 8], [1, 1])))
    >>> both = joined(a, b); both.rows[:, 0].tolist(), both.borders.lengths
    ([1, 2, 7, 3, 8], (3, 2))
    """
    pairs = list(zip(first.borders.lengths, second.borders.lengths, strict=True))
    pieces = zip(first.rows.split(first.borders.lengths), second.rows.split(second.borders.lengths), strict=True)
    rows = torch.cat([each for pair in pieces for each in pair])
    return Context(rows=rows, borders=Borders.of([a + b for a, b in pairs], rows.device))
