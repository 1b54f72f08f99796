"""Bidirectional cross-modal attention: words see media, and media what was said before them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from mmtrain.models.fusion.gated import AcrossSpec, GatedLayer
from mmtrain.models.fusion.sight import Sight
from mmtrain.models.layers import Context, Layer


class BidirectionalSpec(AcrossSpec):
    """Before every `every`-th layer of the language model both streams see each other, each as the other was when the
    layer began: tokens their medium, as in `gated`; media the tokens of their sample up to their own marker, by a
    pre-norm layer of cross-attention and an MLP. Tokens [T, hidden] and vectors [M, hidden] -> both. (Co-attention of
    ViLBERT: Lu et al. 2019, arXiv 1908.02265, §2.2. There media see all words; here words are learned one from the
    other, and a medium that knew those behind it would tell them to itself.)"""

    kind: Literal["bidirectional"]
    every: int = Field(4, ge=1)


class BidirectionalLayer(GatedLayer):
    """One layer of `BidirectionalSpec`."""

    def __init__(self, spec: Any, hidden: int, heads: int) -> None:
        super().__init__(spec, hidden, heads)
        told = {"context": hidden, "head_width": spec.head_width, "inner": spec.inner, "bias": False}
        self.media_layer = Layer(hidden, spec.heads or heads, sees="context", **told)

    def forward(self, x: torch.Tensor, seen: Sight | None, at: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        made, media = super().forward(x, seen, at)
        if seen is not None and len(seen.rows):  # none are left where keys and values were kept
            places, borders = seen.before()
            media = self.media_layer(seen.rows, seen.media, context=Context(rows=x[places], borders=borders))
        return made, media
