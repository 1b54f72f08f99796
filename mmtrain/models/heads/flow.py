"""A head that draws: a small denoiser that makes the next latent of a picture of the state that is about to see it."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from mmdata.labels import IGNORE
from mmdata.spec import Model
from mmtrain.auxiliary import Term, Unit, keyed, record
from mmtrain.models.placeholders import holes, segments

PERIODS = 10_000
"""Of the sinusoids that a time becomes, in thousandths (Diffusers' and MAR's)."""


class FlowSpec(Model):
    """The pictures that answers draw, as continuous tokens: for `model.vision: {kind: latent}`. The hidden state before
    each placeholder tells an MLP which way a noisy latent has to go to become the one that stands there (MAR's loss for
    each token: Li et al. 2024, arXiv 2406.11838, §3.2 and §4.1, with rectified flow for its diffusion: Liu et al. 2022,
    arXiv 2209.03003, eq. 1; Lipman et al. 2022, arXiv 2210.02747). Its loss is `flow`, the mean over each picture that
    an answer draws: one of which the word before it is trained."""

    hidden: int = Field(256, ge=8)
    """Width of the MLP;"""
    layers: int = Field(3, ge=1)
    """its residual blocks."""
    repeats: int = Field(4, ge=1)
    """Noises and times for each latent of a pass, all with one hidden state (MAR has 4)."""
    steps: int = Field(25, ge=1)
    """Of Euler's method, when a latent is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictured:
    """A picture among the tokens of a batch's rows, laid after each other: its segment, its number there, where its
    first placeholder stands, how many there are, and where the last token stands that is before it and is no
    placeholder (None: there is none in its segment)."""

    segment: int
    number: int
    first: int
    count: int
    word: int | None


class Block(nn.Module):
    """x + gate * mlp(norm(x) * (1 + scale) + shift), all three of the condition (adaLN: Peebles & Xie 2022, arXiv
    2212.09748, §3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.told = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.told(F.silu(condition)).chunk(3, -1)
        made: torch.Tensor = x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)
        return made


class FlowHead(nn.Module):
    """`FlowSpec`: hidden states of width `width`, latents of `latent` values."""

    def __init__(self, spec: FlowSpec, width: int, latent: int) -> None:
        super().__init__()
        self.spec, self.latent = spec, latent
        self.inward = nn.Linear(latent, spec.hidden)
        self.state = nn.Linear(width, spec.hidden)
        self.time = nn.Sequential(nn.Linear(spec.hidden, spec.hidden), nn.SiLU(), nn.Linear(spec.hidden, spec.hidden))
        self.blocks = nn.ModuleList(Block(spec.hidden) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.hidden, elementwise_affine=False)
        self.told = nn.Linear(spec.hidden, 2 * spec.hidden)
        self.outward = nn.Linear(spec.hidden, latent)
        self.auxiliary = {"flow": Term(weight=1.0, per="drawing")}

    def forward(self, x: torch.Tensor, times: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Noisy latents [..., latent], their times [...] from 0 (noise) to 1, and hidden states [..., width] -> which
        way they go, float32 [..., latent]."""
        dtype = self.outward.weight.dtype
        condition = self.state(states) + self.time(sinusoids(times, self.spec.hidden).to(dtype))
        hidden = self.inward(x.to(dtype))
        for block in self.blocks:
            hidden = block(hidden, condition)
        shift, scale = self.told(F.silu(condition)).chunk(2, -1)
        made: torch.Tensor = self.outward(self.norm(hidden) * (1 + scale) + shift).float()
        return made

    def losses(
        self, latents: torch.Tensor, states: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Of latents [N, latent] after states [N, width], with noise [R, N, latent] and times [R, N]: the mean squared
        distance of `forward` from `latents - noise`, float32 [N]."""
        share = times[..., None]
        mixed = (1 - share) * noise + share * latents
        found = self(mixed, times, states.expand(len(noise), *states.shape))
        return (found - (latents - noise)).square().mean((0, 2))

    @torch.no_grad()
    def drawn(self, state: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The latents float32 [N, latent] that noise [N, latent] becomes after states [N, width]."""
        return euler(lambda x, time: self(x, x.new_full(x.shape[:-1], time), state), noise, self.spec.steps)

    def units(self, model: Any, batch: Mapping[str, Any], weights: torch.Tensor) -> dict[Unit, torch.Tensor]:
        """Each picture counts 1 where the word before it weighs anything in the loss."""
        weighs = (weights != 0).tolist()
        asked = [each.word is not None and weighs[each.word] for each in pictured(model, batch)]
        return {"drawing": torch.tensor(asked, dtype=weights.dtype, device=weights.device)}

    def learn(self, model: Any, batch: Mapping[str, Any], hidden: torch.Tensor) -> None:
        """Record the loss of each of a batch's pictures; those that no answer draws have 0. Noise and times are drawn
        by step and sample (`mmtrain.auxiliary.keyed`), whichever pack that is in. Modules run once in every pass,
        pictures or not, for shards wait for each other in them."""
        trained, keys = (batch["labels"].flatten() != IGNORE).tolist(), batch.get("keys") or ()
        places = pictured(model, batch)
        patches = model.base_model.patches(batch) if places else None
        wanted = [each.word is not None and trained[each.word] for each in places]
        chance = [self._chance(torch.Generator(), 1)]  # a row of nothing, which counts 0, comes first
        rows, at = [torch.zeros(1, dtype=torch.long)], [torch.zeros(1, dtype=torch.long)]
        begins = itertools.accumulate((each.count for each in places), initial=0)
        for each, begin, asked in zip(places, begins, wanted, strict=False):
            if asked:
                key = keys[each.segment] if each.segment < len(keys) else ""
                chance.append(self._chance(keyed("flow", key, each.number), each.count))
                rows.append(torch.arange(begin, begin + each.count))
                at.append(torch.arange(each.first - 1, each.first + each.count - 1))
        latents = hidden.new_zeros(1, self.latent) if patches is None else patches.rows
        found = self.losses(
            latents[torch.cat(rows).to(hidden.device)].float(),
            hidden[torch.cat(at).to(hidden.device)],
            *(torch.cat(parts, 1).to(hidden.device) for parts in zip(*chance, strict=True)),
        )
        nothing = found[:1].sum() * 0
        means = iter(each.mean() for each in found.split([len(each) for each in rows])[1:])
        values = [next(means) + nothing if asked else nothing for asked in wanted]
        record("flow", torch.stack(values) if values else nothing[None][:0])

    def _chance(self, draw: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise [repeats, count, latent] and times [repeats, count], on the host, so that they are the same on any
        device. Of the repeats, each has its part of the times: together they are even (the low-discrepancy sampler of
        Kingma et al. 2021, arXiv 2107.00630)."""
        repeats = self.spec.repeats
        noise = torch.randn(repeats, count, self.latent, generator=draw)
        even = torch.arange(repeats)[:, None] / repeats
        return noise, (torch.rand(1, count, generator=draw) + even) % 1


def sinusoids(times: torch.Tensor, width: int) -> torch.Tensor:
    """Times [...] in [0, 1] -> float32 [..., width]: cosines and sines of their thousandths."""
    half = width // 2
    rates = torch.exp(-math.log(PERIODS) * torch.arange(half, device=times.device) / half)
    angles = 1000 * times.float()[..., None] * rates
    return F.pad(torch.cat([angles.cos(), angles.sin()], -1), (0, width % 2))


def euler(field: Callable[[torch.Tensor, float], torch.Tensor], x: torch.Tensor, steps: int) -> torch.Tensor:
    """Where `x` goes along a field (of places and a time) from time 0 to time 1, in equal steps.

    >>> euler(lambda x, time: (torch.tensor([3.0]) - x) / (1 - time), torch.tensor([7.0]), 4)
    tensor([3.])
    """
    for step in range(steps):
        x = x + field(x, step / steps) / steps
    return x


def pictured(model: Any, batch: Mapping[str, Any]) -> list[Pictured]:
    """The pictures of a batch, in the order in which the tower has them."""
    body, cu = model.base_model, segments(batch).tolist()
    firsts = body.first_tokens(batch).tolist()
    counts = [length for _, lengths in body.shown(batch) for length in lengths]
    config = body.config
    marks = holes(batch["input_ids"].flatten(), (config.image_token_id, config.video_token_id)).tolist()
    numbers: dict[int, Iterator[int]] = {}
    found = []
    for first, count in zip(firsts, counts, strict=True):
        segment = bisect.bisect_right(cu, first) - 1
        word = next((at for at in range(first - 1, cu[segment] - 1, -1) if not marks[at]), None)
        number = next(numbers.setdefault(segment, itertools.count()))
        found.append(Pictured(segment=segment, number=number, first=first, count=count, word=word))
    return found
