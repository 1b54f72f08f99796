"""A codebook that follows what it is to stand for: averages of vectors, dead ones brought back, and usage."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

EPS = 1e-5
"""Of the smoothing of counts (Laplace), so that no code is divided by nothing (VQ-VAE-2's `decay` code)."""


class Quantized(NamedTuple):
    """`rows` [P, width] are the codes of vectors, with the gradient of the vectors themselves (straight through); `ids`
    int64 [P]; `commitment` is the mean squared distance of vectors to their codes, whose gradient moves the vectors."""

    rows: torch.Tensor
    ids: torch.Tensor
    commitment: torch.Tensor


class Codebook(nn.Module):
    """`codes` vectors of `width`, each an exponential average of the vectors that it was nearest to (van den Oord et
    al. 2017, arXiv 1711.00937, appendix A.1). A code that in the average stands for fewer than `revive` vectors of a
    batch becomes one of the batch's vectors, drawn at random (Jukebox: Dhariwal et al. 2020, arXiv 2005.00341, §3.1).
    Averages and codes are buffers: they are saved, and have no gradient."""

    codes: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor
    begun: torch.Tensor

    def __init__(self, codes: int, width: int, *, decay: float = 0.99, revive: float = 1.0) -> None:
        super().__init__()
        self.decay, self.revive = decay, revive
        self.register_buffer("codes", torch.randn(codes, width) / width**0.5)
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", self.codes.clone())
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def forward(self, rows: torch.Tensor, *, draw: torch.Generator | None = None) -> Quantized:
        """The nearest code of each vector [P, width]. In training, with a generator `draw`, the codes move first
        nowhere: they are those from before the batch, and follow it afterwards."""
        if self.training and draw is not None and not bool(self.begun):
            self._begin(rows.detach().float(), draw)
        ids = self.nearest(rows)
        found = self.codes[ids].to(rows.dtype)
        commitment = F.mse_loss(rows, found.detach())
        if self.training and draw is not None:
            self._follow(rows.detach().float(), ids, draw)
        return Quantized(rows=rows + (found - rows).detach(), ids=ids, commitment=commitment)

    @torch.no_grad()
    def nearest(self, rows: torch.Tensor) -> torch.Tensor:
        """The number of the code that is nearest to each vector, int64 [P]."""
        x = rows.float()
        distance = self.codes.square().sum(1) - 2 * x @ self.codes.T  # |x|^2 is the same for all codes
        return distance.argmin(1)

    @torch.no_grad()
    def _begin(self, rows: torch.Tensor, draw: torch.Generator) -> None:
        """Codes begin as vectors of the first batch."""
        self.codes.copy_(self._drawn(rows, len(self.codes), draw))
        self.sums.copy_(self.codes)
        self.counts.fill_(1.0)
        self.begun.fill_(True)

    @torch.no_grad()
    def _follow(self, rows: torch.Tensor, ids: torch.Tensor, draw: torch.Generator) -> None:
        counts = torch.bincount(ids, minlength=len(self.codes)).to(rows.dtype)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, ids, rows), 1 - self.decay)
        total = self.counts.sum()
        smoothed = (self.counts + EPS) / (total + len(self.codes) * EPS) * total
        self.codes.copy_(self.sums / smoothed[:, None])
        dead = self.counts < self.revive
        if bool(dead.any()):
            number = int(dead.sum())
            self.codes[dead] = self._drawn(rows, number, draw)
            self.sums[dead] = self.codes[dead] * max(1.0, self.revive)
            self.counts[dead] = max(1.0, self.revive)

    @staticmethod
    def _drawn(rows: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
        """Vectors at random, each once before any comes twice."""
        rounds = -(-count // len(rows))
        order = torch.cat([torch.randperm(len(rows), generator=draw) for _ in range(rounds)])[:count]
        return rows[order.to(rows.device)]


def usage(ids: torch.Tensor, codes: int) -> dict[str, float]:
    """Of codes that were met: `used`, the share of all codes that were, and `perplexity`, as many codes as would be
    equally common.

    >>> usage(torch.tensor([0, 0, 1, 1]), 4)
    {'used': 0.5, 'perplexity': 2.0}
    """
    counts = torch.bincount(ids.flatten(), minlength=codes).double()
    shares = counts[counts > 0] / counts.sum()
    return {"used": len(shares) / codes, "perplexity": round(float((-(shares * shares.log()).sum()).exp()), 6)}
