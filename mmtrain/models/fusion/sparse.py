"""Block-sparse attention: of the keys of its segment a query sees the blocks that are most like it."""

from __future__ import annotations

import torch
from pydantic import Field

from mmdata.spec import Model
from mmtrain.models.layers import Borders, KeyValues


class BlockSparseSpec(Model):
    """Keys of a segment are taken in blocks of `block`; each query sees the `count` blocks whose mean key has the
    greatest product with it, summed over heads. What is chosen for a query depends on no other, so a row stays causal,
    and words that come one by one see what they saw together. (Mixture of block attention: Lu et al. 2025,
    arXiv 2502.13189, §2.2, without its causal block.)"""

    block: int = Field(16, ge=1)
    count: int = Field(2, ge=1)

    def choose(self, query: torch.Tensor, borders: Borders, seen: KeyValues) -> tuple[Borders, KeyValues]:
        """`mmtrain.models.layers.Choose`: each query becomes a segment, with copies of the keys that it sees."""
        places, lengths, start = [], [], 0
        queries, keys = query.split(borders.lengths), seen.key.split(seen.borders.lengths)
        for mine, theirs in zip(queries, keys, strict=True):
            blocks = theirs.detach().split(self.block)
            means = torch.stack([block.mean(0) for block in blocks])
            likeness = torch.einsum("qhd,bhd->qb", mine.detach(), means)
            best = likeness.topk(min(self.count, len(blocks)), dim=1).indices
            chosen = torch.zeros_like(likeness, dtype=torch.bool).scatter_(1, best, True)
            inside = chosen.repeat_interleave(torch.tensor([len(b) for b in blocks], device=chosen.device), dim=1)
            places.append(torch.nonzero(inside)[:, 1] + start)
            lengths += inside.sum(1).tolist()
            start += len(theirs)
        every = torch.cat(places)
        each = Borders.of([1] * len(query), query.device)
        found = KeyValues(key=seen.key[every], value=seen.value[every], borders=Borders.of(lengths, query.device))
        return each, found
