"""How much a connector has to do for pictures of given lengths: rows of its layers, and products beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmtrain.models.connectors import tokens_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """`rows` says how many rows (or pixels) go through the linear layer or convolution of a name. The others are
    operations of a forward pass, two for a product and its sum: of `attention`, of `products` of two matrices that both
    have a gradient, of `sums` over patches (by weights without one), and `choices` that have none at all."""

    rows: Callable[[str], int]
    attention: int = 0
    products: int = 0
    sums: int = 0
    choices: int = 0


def work(
    spec: Any, merge: int, width: int, out: int, lengths: Sequence[int], grids: Sequence[tuple[int, int]] = ()
) -> Work:
    """Of the connector of a spec (between vectors of `width` and of `out`) for pictures of so many patches, in grids of
    (rows, columns) where it wants whole ones."""
    patches, pictures = sum(lengths), len(lengths)
    tokens = sum(tokens_of(spec, merge, length) for length in lengths)
    match spec.kind:
        case "c_abstractor":

            def rows(name: str) -> int:
                if name.endswith(("squeeze", "excite")):
                    return pictures
                return patches if name.startswith("before.") else tokens

            return Work(rows=rows)
        case "cross_attention":
            hidden = spec.hidden or out
            seen = ("inward", "attention.k", "attention.v")
            attention = 4 * spec.tokens * patches * hidden
            return Work(rows=lambda name: patches if name in seen else tokens, attention=attention)
        case "hierarchical_pool":
            side = math.isqrt(spec.regions)
            each = [min(side, down) * min(side, along) for down, along in grids]

            def rows(name: str) -> int:
                if name.startswith("attention."):
                    return patches if name.endswith((".k", ".v")) else sum(each)
                return sum(each) if name.endswith((".k", ".v")) else tokens

            return Work(rows=rows, attention=4 * (patches + spec.tokens * sum(each)) * width)
        case "perceiver":

            def rows(name: str) -> int:
                if name == "inward":
                    return patches
                return patches + tokens if name.endswith(("attention.k", "attention.v")) else tokens

            inner = spec.heads * spec.head_width
            return Work(rows=rows, attention=4 * spec.layers * spec.tokens * (patches + tokens) * inner)
        case "qformer":

            def rows(name: str) -> int:
                if ".text_" in f".{name}":
                    return 0
                return patches if name.endswith(("cross_attention.k", "cross_attention.v")) else tokens

            across = len(range(0, spec.layers, spec.cross_every))
            pairs = spec.tokens * (spec.layers * tokens + across * patches)
            return Work(rows=rows, attention=4 * pairs * spec.hidden)
        case "clusters":
            products = 2 * 2 * patches * spec.tokens * width
            return Work(rows=lambda name: patches if name == "centres" else tokens, products=products)
        case "token_merge":
            sums = sum(2 * tokens_of(spec, merge, length) * length * width for length in lengths)
            choices = sum(_choosing(spec, length) for length in lengths) * 2 * width
            return Work(rows=lambda _: tokens, sums=sums, choices=choices)
    return Work(rows=lambda _: tokens)


def _choosing(spec: Any, length: int) -> int:
    """Vectors that are compared or added up, to find what is merged of a picture."""
    now, done = length, 0
    while now > spec.tokens:
        done += now * length  # the means of the groups so far
        if spec.rule == "greedy":
            done += now**2
            now -= 1
        else:
            done += -(-now // 2) * (now // 2)
            now -= min(now - spec.tokens, now // 2)
    return done
