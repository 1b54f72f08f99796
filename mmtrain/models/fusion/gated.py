"""Gated cross-attention: layers before those of the language model, in which tokens see their medium."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mmdata.spec import Model
from mmtrain.models.fusion.sight import Sight
from mmtrain.models.fusion.sparse import BlockSparseSpec
from mmtrain.models.layers import Attention, Context, KeyValues, Layer, Mlp

EPS = 1e-6
SHUT = -3.0
"""Where a sigmoid gate begins: 5 % open."""


class AcrossSpec(Model):
    """What all kinds with cross-attention have in common."""

    heads: int | None = Field(None, ge=1)
    """As many as the language model has by default."""
    head_width: int | None = Field(None, ge=1)
    """Of each head; the language model's width / heads by default."""
    inner: int | None = Field(None, ge=1)
    """Width inside the MLPs; four times the language model's width by default."""
    gate: Literal["tanh", "sigmoid"] = "tanh"
    """What a layer adds is scaled by: `tanh`, of one number for each half of a layer that begins at 0, so that the
    language model begins as it was, to the bit (Flamingo); `sigmoid`, of each token's own values, W x + b, that begins
    5 % open."""
    rank: int | None = Field(None, ge=1)
    """Low rank: the four maps of the attention are products of two matrices that meet in so few values."""
    sparse: BlockSparseSpec | None = None
    """Block-sparse: each token sees some blocks of its medium only."""
    marks: ClassVar[bool] = True
    """A picture is one marker among the tokens; what it shows comes in by the layers."""


class GatedSpec(AcrossSpec):
    """Before every `every`-th layer of the language model, the first among them, tokens see the medium whose marker
    came last before them in their own sample: x + gate * attention(norm(x), medium), then x + gate * mlp(norm(x)).
    Tokens [T, hidden] and the connector's vectors [M, hidden] -> [T, hidden]. Norms are RMS, the MLP is SwiGLU, without
    biases. (Flamingo: Alayrac et al. 2022, arXiv 2204.14198, §3.1.2; `IdeficsGatedCrossAttentionLayer`.)"""

    kind: Literal["gated"]
    every: int = Field(4, ge=1)


class ProgressiveSpec(AcrossSpec):
    """Gated cross-attention before the given `layers` of the language model, numbered from 0; before each but the
    first, pictures go through a layer of their own (pre-norm, seeing themselves): the deeper the words, the deeper what
    they see. (Our composition of Flamingo's layer; there is no primary source.)"""

    kind: Literal["progressive"]
    layers: list[int] = Field(..., min_length=1)

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.layers != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers {self.layers}: numbers from 0, each once, in ascending order")
        return self


class Gate(nn.Module):
    """How much of `made` [n, hidden] is added, told by `x` [n, hidden], to which it is (`AcrossSpec.gate`)."""

    def __init__(self, kind: Literal["tanh", "sigmoid"], hidden: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "tanh":
            self.alpha = nn.Parameter(torch.zeros(1))
        else:
            self.weight = nn.Parameter(torch.zeros(hidden, hidden))
            self.bias = nn.Parameter(torch.full((hidden,), SHUT))

    def forward(self, made: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "tanh":
            return torch.tanh(self.alpha) * made
        return torch.sigmoid(nn.functional.linear(x, self.weight, self.bias)) * made


class GatedLayer(GradientCheckpointingLayer):
    """One layer of `GatedSpec`; with `refine`, media pass a layer of their own before they are seen."""

    def __init__(self, spec: Any, hidden: int, heads: int, *, refine: bool = False) -> None:
        super().__init__()
        heads = spec.heads or heads
        width = {"head_width": spec.head_width, "bias": False}
        self.refine = Layer(hidden, heads, inner=spec.inner) if refine else None
        self.attention_norm = nn.RMSNorm(hidden, eps=EPS)
        self.attention = Attention(hidden, heads, context=hidden, rank=spec.rank, **width)
        self.attention_gate = Gate(spec.gate, hidden)
        self.mlp_norm = nn.RMSNorm(hidden, eps=EPS)
        self.mlp = Mlp(hidden, spec.inner, bias=False, activation="silu", gated=True)
        self.mlp_gate = Gate(spec.gate, hidden)
        self.across = heads * (spec.head_width or hidden // heads)
        self.choose = None if spec.sparse is None else spec.sparse.choose

    def forward(self, x: torch.Tensor, seen: Sight | None, at: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens [T, hidden], and what they see, if anything -> the same, and the media as the next layer finds them;
        `at` is the layer's number, by which keys and values are kept."""
        media = None
        if seen is not None:
            media = seen.rows
            kept = None if seen.kept is None else seen.kept.get(at)
            if kept is None:
                if self.refine is not None:
                    media = self.refine(seen.rows, seen.media)
                kept = self.attention.keep(Context(rows=media, borders=seen.media))
                if seen.kept is not None:
                    seen.kept[at] = kept
            x = self._added(x, seen, kept)
        x = x + self.mlp_gate(self.mlp(self.mlp_norm(x)), x)
        return x, media

    def _added(self, x: torch.Tensor, seen: Sight, kept: KeyValues) -> torch.Tensor:
        """x and, where something is seen, what was."""
        words = self.attention_norm(x)[seen.places]
        made = self.attention(words, seen.queries, kept, choose=self.choose)
        return x.index_add(0, seen.places, self.attention_gate(made, x[seen.places]).to(x.dtype))
