"""How much a fusion, and experts, have to do for a batch: rows of their layers, and products beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmtrain.models import experts
from mmtrain.models.beside import MODALITIES
from mmtrain.models.fusion import read


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """`rows` says how many rows go through the linear layer of a name (behind `fusion.`). The others are operations of
    a forward pass, two for a product and its sum: of `attention`, and of `products` of which both sides have a
    gradient."""

    rows: Callable[[str], int] = lambda _: 0
    attention: int = 0
    products: int = 0


def work(model: Any, batch: Mapping[str, Any], pairs: int) -> Fused | None:
    """Of a native model's fusion for a batch in which so many samples learn something; None for what is not counted:
    `bidirectional` (its media see words up to their marker, layer by layer) and `sparse` (what is seen is chosen)."""
    if getattr(model.config, "fusion", {"kind": "early"})["kind"] == "early":
        return Fused()
    body, spec = model.base_model, read(model.config.fusion)
    made = body._made(batch)
    if spec.kind == "late":
        return _late(body.fusion, spec, sum(made), pairs)
    if spec.kind == "bidirectional" or spec.sparse is not None:
        return None
    tokens, media, asking, seen = int(batch["input_ids"].numel()), sum(made), 0, 0
    own = 0
    if made:
        sight = body._sight(torch.zeros(media, 1), batch)
        asking = sum(sight.queries.lengths)
        seen = sum(q * m for q, m in zip(sight.queries.lengths, sight.media.lengths, strict=True))
        own = sum(m * m for m in sight.media.lengths)
    attention = products = 0
    for layer in body.fusion.layers:
        hidden = layer.attention_norm.weight.shape[0]
        attention += 4 * seen * layer.across + (0 if layer.refine is None else 4 * own * hidden)
        if spec.gate == "sigmoid":
            products += 2 * (asking + tokens) * hidden**2

    def rows(name: str) -> int:
        inside = name.split(".", 2)[2]
        if inside.startswith(("refine.", "attention.k", "attention.v")):
            return media
        return asking if inside.startswith("attention.") else tokens

    return Fused(rows=rows, attention=attention, products=products)


def _late(head: Any, spec: Any, tokens: int, pairs: int) -> Fused:
    pooled = spec.pool == "attention"
    hidden = head.of_picture.in_features
    return Fused(
        rows=lambda name: tokens if name.startswith(("attention.k", "attention.v")) else pairs,
        attention=4 * tokens * hidden if pooled else 0,
        products=2 * pairs**2 * spec.projection,
    )


def share_of_experts(config: Any) -> float | None:
    """What part of a language model's tokens goes through each of its experts, on average: they are alike, so that is
    enough. None where their room is bounded, and what does not fit is left out."""
    spec = experts.read(getattr(config, "experts", None))
    if spec is None:
        return 1.0
    if isinstance(spec, experts.ModalitySpec):
        return 1 / len(MODALITIES)
    return None if spec.capacity is not None else spec.top_k / spec.count
