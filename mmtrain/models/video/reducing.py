"""How a video becomes fewer vectors: convolutions through time, and merging of like patches of all frames."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from mmdata.spec import Model
from mmtrain.models.connectors.compressed import averaged, bipartite
from mmtrain.models.video.footage import Footage

Made = tuple[torch.Tensor, list[list[int]]]


class ConvSpec(Model):
    """A convolution through time at each place, of `kernel` frames in steps of `stride`: [T, S, width] ->
    [ceil(T / stride), S, width], added to the frames in its middle. Frames before the first and after the last are
    zeros."""

    kind: Literal["conv"]
    kernel: int = Field(3, ge=1)
    """Odd."""
    stride: int = Field(2, ge=1)


class MergeSpec(Model):
    """Like patches of all frames of a video are averaged until `tokens` are left (ToMe over time and space: Bolya et
    al. 2023, arXiv 2210.09461, §4.3): the video becomes one picture of at most so many patches."""

    kind: Literal["merge"]
    tokens: int = Field(256, ge=1)


def kept_lengths(spec: ConvSpec | MergeSpec | None, frames: int, places: int) -> list[int]:
    """The patches of each picture that is left of a video."""
    if spec is None:
        return [places] * frames
    if isinstance(spec, ConvSpec):
        return [places] * -(-frames // spec.stride)
    return [min(spec.tokens, frames * places)]


def reducer(spec: ConvSpec | MergeSpec | None, width: int) -> nn.Module:
    """The module of a spec: `Footage` to rows and the lengths of each video's pictures."""
    if spec is None:
        return Whole()
    return Convolved(spec, width) if isinstance(spec, ConvSpec) else Merged(spec)


class Whole(nn.Module):
    """All as it was."""

    def forward(self, footage: Footage) -> Made:
        return footage.patches.rows, [list(lengths) for lengths in footage.lengths]


class Convolved(nn.Module):
    """`ConvSpec`."""

    def __init__(self, spec: ConvSpec, width: int) -> None:
        super().__init__()
        if spec.kernel % 2 == 0:
            raise ValueError(f"model.video.reduce.kernel: {spec.kernel}; an odd one has a middle")
        self.spec = spec
        self.conv = nn.Conv1d(width, width, spec.kernel, stride=spec.stride, padding=spec.kernel // 2)

    def forward(self, footage: Footage) -> Made:
        rows, lengths = list[torch.Tensor](), list[list[int]]()
        sizes = [count * each for count, each in zip(footage.frames, footage.places, strict=True)]
        videos = footage.patches.rows.split(sizes)
        for video, frames, places in zip(videos, footage.frames, footage.places, strict=True):
            x = video.view(frames, places, -1)
            through = self.conv(x.permute(1, 2, 0)).permute(2, 0, 1)  # [T', S, width]
            made = x[:: self.spec.stride] + F.gelu(through)
            rows.append(made.flatten(0, 1))
            lengths.append(kept_lengths(self.spec, frames, places))
        return torch.cat(rows) if rows else footage.patches.rows, lengths


class Merged(nn.Module):
    """`MergeSpec`."""

    def __init__(self, spec: MergeSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, footage: Footage) -> Made:
        rows, lengths = list[torch.Tensor](), list[list[int]]()
        sizes = [count * each for count, each in zip(footage.frames, footage.places, strict=True)]
        for video in footage.patches.rows.split(sizes):
            kept = min(self.spec.tokens, len(video))
            rows.append(averaged(video[None], bipartite(video.detach()[None], kept))[0])
            lengths.append([kept])
        return torch.cat(rows) if rows else footage.patches.rows, lengths
