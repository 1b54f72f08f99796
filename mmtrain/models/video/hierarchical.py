"""Long videos: clips that are encoded alone, then an aggregator that sees what each clip was told to keep."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from mmdata.spec import Model
from mmtrain.models.connectors.patches import Patches
from mmtrain.models.layers import Borders, Context, Layer
from mmtrain.models.video.attending import Attending, AttendingSpec
from mmtrain.models.video.footage import Footage
from mmtrain.models.video.times import time_code


class HierarchicalSpec(Model):
    """A video is cut into clips of `clip` frames. Frames of a clip see each other (`inside`), `tokens` learned queries
    look at the clip, and `layers` layers look across the queries of all clips, to which the time of their clip is
    added: [P, width] -> [clips * tokens, width], a picture of `tokens` patches for each clip. Pairs compared are linear
    in the frames, but for (clips * tokens)^2 of the aggregator. (Hierarchy as in HERO, Li et al. 2020, arXiv
    2005.00200; queries of clips as in Video-LLaMA's Q-Former, Zhang et al. 2023, arXiv 2306.02858.)"""

    kind: Literal["hierarchical"]
    clip: int = Field(16, ge=1)
    """Frames; the last clip may have fewer."""
    tokens: int = Field(8, ge=1)
    """Of each clip."""
    layers: int = Field(2, ge=0)
    """Of the aggregator."""
    heads: int = Field(4, ge=1)
    inside: AttendingSpec = AttendingSpec(kind="divided", layers=1)
    """What is done within a clip; without `video_token` and `reduce`."""

    @property
    def widens(self) -> bool:
        return True

    def lengths(self, frames: int, places: int) -> list[int]:
        """The patches of each picture that a video becomes.

        >>> HierarchicalSpec(kind="hierarchical", clip=4, tokens=2).lengths(9, 100)
        [2, 2, 2]
        """
        return [self.tokens] * -(-frames // self.clip)

    @property
    def reach(self) -> int | None:
        return None


class Hierarchical(nn.Module):
    """`HierarchicalSpec`. `clips` and `aggregated` are its two halves, so that a long video need not be held whole."""

    def __init__(self, spec: HierarchicalSpec, width: int, merge: int) -> None:
        super().__init__()
        if spec.inside.widens or spec.inside.reduce is not None:
            raise ValueError("model.video.inside: takes neither video_token nor reduce; clips have `tokens`")
        self.spec, self.width = spec, width
        self.inside = Attending(spec.inside, width, merge)
        self.queries = nn.Parameter(nn.init.normal_(torch.empty(spec.tokens, width), std=0.02))
        self.look = Layer(width, spec.heads, sees="context", context=width)
        self.layers = nn.ModuleList(Layer(width, spec.heads) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, footage: Footage) -> tuple[torch.Tensor, tuple[int, ...]]:
        """The vectors of all clips [clips * tokens, width], and how many each has."""
        counts = [-(-frames // self.spec.clip) for frames in footage.frames]
        rows, begins = self.clips(footage)
        made = self.aggregated(rows, begins, counts)
        return made, (self.spec.tokens,) * sum(counts)

    def clips(self, footage: Footage) -> tuple[torch.Tensor, torch.Tensor]:
        """What the queries see of each clip [clips * tokens, width], and its first second float32 [clips], counted from
        the first frame of its video."""
        clips = tuple(
            min(self.spec.clip, frames - at) for frames in footage.frames for at in range(0, frames, self.spec.clip)
        )
        cut = Footage(patches=footage.patches, frames=clips, seconds=footage.seconds)
        x, _ = self.inside.seen(cut)
        sizes = [count * each for count, each in zip(cut.frames, cut.places, strict=True)]
        seen = Context(rows=x, borders=Borders.of(sizes, x.device))
        mine = Borders.of([self.spec.tokens] * len(clips), x.device)
        rows = self.look(self.queries.repeat(len(clips), 1).to(x.dtype), mine, context=seen)
        return rows, footage.elapsed[[0, *itertools.accumulate(clips)][:-1]]

    def aggregated(self, rows: torch.Tensor, begins: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """Queries of clips see those of all clips of their video: `counts` are the clips of each."""
        each = begins.repeat_interleave(self.spec.tokens)
        return self.timed(rows, each, [count * self.spec.tokens for count in counts])

    def timed(self, rows: torch.Tensor, seconds: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        """As `aggregated`, of vectors each with its second; `lengths` are those of each video."""
        x = rows + time_code(seconds * self.spec.inside.rate, self.width).to(rows)
        borders = Borders.of(lengths, rows.device)
        for layer in self.layers:
            x = layer(x, borders)
        made: torch.Tensor = self.norm(x)
        return made


def footage_of(rows: torch.Tensor, places: int, grid: tuple[int, int], seconds: torch.Tensor) -> Footage:
    """One video of frames of `places` patches each."""
    count = len(rows) // places
    patches = Patches(rows=rows, lengths=(places,) * count, grids=(grid,) * count)
    return Footage(patches=patches, frames=(count,), seconds=seconds)
