"""Connectors that make fewer tokens of like patches: learned soft clusters, and merging by similarity (ToMe)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from mmdata.spec import Model
from mmtrain.auxiliary import Term, record
from mmtrain.models.connectors.patches import Patches, alike


class ClustersSpec(Model):
    """Each patch belongs to `tokens` learned centres by a softmax of its likeness to them, and each token is the mean
    of the patches, weighted by how much they belong to it: [P, width] -> [N * tokens, width] -> MLP -> [.., out],
    1,024 patches to 64 tokens, say. What belongs where is also the way back: `reconstruction`, the mean squared
    difference between patches and what their tokens say of them, is an auxiliary loss. (Soft assignment to learned
    centres as in NetVLAD, Arandjelović et al. 2016, arXiv 1511.07247, eq. 4, with means in place of residuals.)"""

    kind: Literal["clusters"]
    tokens: int = Field(64, ge=1)
    """Of each picture: the centres."""
    reconstruction: float = Field(0.1, ge=0)
    """Weight of the auxiliary loss; `auxiliary.reconstruction` overrules it."""
    merges: ClassVar[bool] = False


class TokenMergeSpec(Model):
    """Like patches are averaged until `tokens` of a picture are left (pictures with fewer keep theirs), then two linear
    layers with a GELU between: [P, width] -> [sum of min(patches, tokens), out]. Without parameters of its own but for
    the MLP. Tokens are means over all the patches that went into them, in the order of the first of these."""

    kind: Literal["token_merge"]
    tokens: int = Field(64, ge=1)
    """Of each picture at most."""
    rule: Literal["bipartite", "greedy"] = "bipartite"
    """`bipartite`: every second token is compared with the others by cosine, and of these edges the best are merged, in
    rounds that halve the tokens at most (ToMe: Bolya et al. 2023, arXiv 2210.09461, §3, `bipartite_soft_matching`).
    `greedy`: the two most similar tokens of all are merged, again and again: the plain form, exact and slower."""
    merges: ClassVar[bool] = False


class Clusters(nn.Module):
    """`ClustersSpec`."""

    def __init__(self, spec: ClustersSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        self.auxiliary = {"reconstruction": Term(weight=spec.reconstruction, per="picture")}
        self.norm = nn.LayerNorm(width)
        self.centres = nn.Linear(width, spec.tokens)
        self.up = nn.Linear(width, out)
        self.down = nn.Linear(out, out)

    def forward(self, patches: Patches) -> torch.Tensor:
        def compressed(x: torch.Tensor, _: Hashable) -> torch.Tensor:
            """[n, L, width] -> [n, tokens, width + 1], the last value being the error of the picture."""
            belongs = self.centres(self.norm(x)).float().softmax(-1)  # [n, L, tokens]
            shares = belongs / belongs.sum(1, keepdim=True).clamp(min=1e-6)
            means = shares.transpose(1, 2) @ x.float()
            # The patches are what is to be told, not what is to be changed so that it is told easily.
            error = (belongs @ means - x.detach().float()).square().mean((1, 2))
            return torch.cat([means, error[:, None, None].expand(-1, means.shape[1], 1)], -1)

        found = torch.stack(alike(patches, patches.lengths, compressed))
        record("reconstruction", found[:, 0, -1])
        made: torch.Tensor = self.down(F.gelu(self.up(found[..., :-1].flatten(0, 1).to(patches.rows.dtype))))
        return made


class TokenMerge(nn.Module):
    """`TokenMergeSpec`."""

    def __init__(self, spec: TokenMergeSpec, width: int, out: int, merge: int) -> None:
        super().__init__()
        self.tokens = spec.tokens
        self.rule = bipartite if spec.rule == "bipartite" else greedy
        self.up = nn.Linear(width, out)
        self.down = nn.Linear(out, out)

    def forward(self, patches: Patches) -> torch.Tensor:
        def merged(x: torch.Tensor, length: Any) -> torch.Tensor:
            groups = self.rule(x.detach(), min(length, self.tokens))
            return averaged(x, groups)

        rows = torch.cat(alike(patches, patches.lengths, merged))
        made: torch.Tensor = self.down(F.gelu(self.up(rows)))
        return made


def averaged(x: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The mean of each group of rows: x [n, L, D], groups int64 [n, L] from 0 to G - 1 -> [n, G, D]."""
    belongs = F.one_hot(groups).to(x.dtype)  # [n, L, G]
    return (belongs / belongs.sum(1, keepdim=True)).transpose(1, 2) @ x


@torch.no_grad()
def bipartite(x: torch.Tensor, tokens: int) -> torch.Tensor:
    """Which of `tokens` groups each row of x [n, L, D] is in, int64 [n, L], by rounds of ToMe's matching.

    In a round rows at even places (A) each choose the row at an odd place (B) that is nearest by cosine, and the A of
    the best edges, as many as there are too many rows, half of all at most, join the rows they chose; a row that was
    joined stands for the mean of all in it. Rows stay in the order of the first patch in them.

    >>> bipartite(torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]]), 2).tolist()
    [[0, 0, 1, 1]]
    """
    count, length, _ = x.shape
    groups = torch.arange(length, device=x.device).repeat(count, 1)
    while (now := int(groups.max()) + 1) > tokens:
        rows = F.normalize(averaged(x.float(), groups), dim=-1)
        likeness = rows[:, ::2] @ rows[:, 1::2].transpose(1, 2)  # [n, A, B]
        best, chosen = likeness.max(-1)
        joining = best.sort(dim=-1, descending=True, stable=True).indices[:, : min(now - tokens, now // 2)]
        into = torch.arange(now, device=x.device).repeat(count, 1)
        into.scatter_(1, 2 * joining, 2 * chosen.gather(1, joining) + 1)
        groups = _renumbered(into.gather(1, groups))
    return groups


@torch.no_grad()
def greedy(x: torch.Tensor, tokens: int) -> torch.Tensor:
    """As `bipartite`, by merging the two rows of all that are nearest by cosine until `tokens` are left.

    >>> greedy(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]]), 2).tolist()
    [[0, 1, 0]]
    """
    count, length, _ = x.shape
    groups = torch.arange(length, device=x.device).repeat(count, 1)
    for now in range(length, tokens, -1):
        rows = F.normalize(averaged(x.float(), groups), dim=-1)
        likeness = (rows @ rows.transpose(1, 2)).masked_fill(
            torch.ones(now, now, dtype=torch.bool, device=x.device).tril(), -torch.inf
        )
        first, second = (
            each[:, None] for each in (likeness.flatten(1).argmax(1) // now, likeness.flatten(1).argmax(1) % now)
        )
        groups = _renumbered(torch.where(groups == second, first, groups))
    return groups


def _renumbered(groups: torch.Tensor) -> torch.Tensor:
    """Groups numbered from 0 in the order of the first row of each."""
    length = groups.shape[1]
    firsts = torch.full_like(groups, length)
    places = torch.arange(length, device=groups.device).expand_as(groups)
    firsts.scatter_reduce_(1, groups, places, "amin")
    mine = firsts.gather(1, groups)  # the first place of each row's group
    begins = torch.zeros_like(groups)
    begins.scatter_(1, mine, 1)
    return (begins.cumsum(1) - 1).gather(1, mine)
