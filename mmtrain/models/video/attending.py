"""Frames that see each other: divided, joint, axial and local attention in space and time, over packed frames."""

from __future__ import annotations

import functools
from typing import Annotated, Literal, Self

import torch
from pydantic import Discriminator, Field, Tag, model_validator
from torch import nn

from mmdata.spec import Model
from mmtrain.attention import FULL
from mmtrain.models.layers import Attention, Borders, Mlp
from mmtrain.models.video.footage import Footage, Order, by_frame, by_line, by_place, by_video
from mmtrain.models.video.reducing import ConvSpec, MergeSpec, kept_lengths, reducer
from mmtrain.models.video.times import Times, coded

Reduce = Annotated[
    Annotated[ConvSpec, Tag("conv")] | Annotated[MergeSpec, Tag("merge")],
    Discriminator(lambda value: value.get("kind") if isinstance(value, dict) else value.kind),
]
WITH_TOKEN = ("divided", "joint")
"""Kinds that a video token has a place in."""


class AttendingSpec(Model):
    """Between a tower that sees each frame alone and the connector: when a frame is shown is added to its patches, and
    `layers` layers look across frames, [P, width] -> [P, width].

    With T frames of S patches in R rows and C columns, a layer compares so many pairs:
    - `frames`: none: frames stay alone, only their times are told. 0.
    - `divided`: each place with itself at other times, then each frame with itself: S * T^2 + T * S^2 (TimeSformer's
      divided space-time: Bertasius et al. 2021, arXiv 2102.05095, §3; `TimesformerLayer` without its second map of the
      temporal attention, which is one product with the first).
    - `joint`: every patch with every patch: (T * S)^2 (VideoMAE: Tong et al. 2022, arXiv 2203.12602; ViViT's model 1).
    - `axial`: each place through time, each column of a frame, each row: S * T^2 + T * (C * R^2 + R * C^2) (Ho et al.
      2019, arXiv 1912.12180).
    - `local`: as `divided`, but through time only `window` frames back and ahead: S * T * (2 * window + 1) + T * S^2.
    """

    kind: Literal["frames", "divided", "joint", "axial", "local"]
    layers: int = Field(2, ge=0)
    """None for `frames`, whatever it says."""
    heads: int = Field(4, ge=1)
    window: int = Field(2, ge=1)
    """Of `local`: frames before and after."""
    times: Times = "seconds"
    """What tells when a frame is shown: its seconds from the first, whatever the frame rate; its number; nothing."""
    rate: float = Field(4.0, gt=0)
    """Steps of the code of times in a second."""
    video_token: Literal["none", "beside", "alone"] = "none"
    """A learned vector of each video (ViT's class token, as TimeSformer has it): it is seen with the patches of each
    frame, and what frames make of it is averaged. It stands before the frames as a picture of one patch, or alone in
    their place. For `divided` and `joint`."""
    reduce: Reduce | None = None
    """How frames or patches become fewer afterwards."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.video_token != "none" and self.kind not in WITH_TOKEN:
            raise ValueError(f"video_token: {self.video_token} is for {' and '.join(WITH_TOKEN)}, not {self.kind}")
        if self.video_token == "alone" and self.reduce is not None:
            raise ValueError("video_token: alone leaves nothing to reduce; leave reduce out")
        return self

    @property
    def widens(self) -> bool:
        """Whether pictures are other than whole frames."""
        return self.video_token != "none" or (self.reduce is not None and self.reduce.kind == "merge")

    def lengths(self, frames: int, places: int) -> list[int]:
        """The patches of each picture that a video of `frames` frames of `places` patches becomes.

        >>> AttendingSpec(kind="joint", reduce={"kind": "conv"}, video_token="beside").lengths(5, 4)
        [1, 4, 4, 4]
        """
        token = [] if self.video_token == "none" else [1]
        return token if self.video_token == "alone" else token + kept_lengths(self.reduce, frames, places)

    @property
    def reach(self) -> int | None:
        """How many frames away a frame's vectors may depend on another; None for all of the video."""
        if self.video_token != "none" or self.kind not in ("frames", "local") or self.reduce is not None:
            return None
        return 0 if self.kind == "frames" else self.window * self.layers


class SpaceTime(nn.Module):
    """A layer of `AttendingSpec`: x + attention(norm(x)) in each of its orders, then x + mlp(norm(x))."""

    def __init__(self, spec: AttendingSpec, hidden: int) -> None:
        super().__init__()
        self.window = (spec.window, spec.window) if spec.kind == "local" else FULL
        orders = {"joint": 1, "axial": 3}.get(spec.kind, 2)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(orders))
        self.attentions = nn.ModuleList(Attention(hidden, spec.heads) for _ in range(orders))
        self.mlp_norm = nn.LayerNorm(hidden)
        self.mlp = Mlp(hidden)

    def forward(
        self, x: torch.Tensor, token: torch.Tensor | None, orders: list[Order], frames: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Patches [P, hidden] and the token of each video [N, hidden], if there are any."""
        for at, (norm, attention, order) in enumerate(zip(self.norms, self.attentions, orders, strict=True)):
            last = at + 1 == len(orders)
            if token is not None and last:
                made, more = _with_token(norm(x), norm(token), order, attention, frames)
                x, token = x + made, token + more
            else:
                attend = functools.partial(attention, window=self.window if not at else FULL)
                x = x + order.sees(norm(x), attend)
        x = x + self.mlp(self.mlp_norm(x))
        return x, None if token is None else token + self.mlp(self.mlp_norm(token))


class Attending(nn.Module):
    """`AttendingSpec`."""

    def __init__(self, spec: AttendingSpec, width: int, merge: int) -> None:
        super().__init__()
        self.spec, self.merge, self.width = spec, merge, width
        count = 0 if spec.kind == "frames" else spec.layers
        self.layers = nn.ModuleList(SpaceTime(spec, width) for _ in range(count))
        self.norm = nn.LayerNorm(width) if count else nn.Identity()
        if spec.video_token != "none":
            self.video_token = nn.Parameter(nn.init.normal_(torch.empty(1, width), std=0.02))
        self.reduce = reducer(spec.reduce, width)

    def forward(self, footage: Footage) -> tuple[torch.Tensor, tuple[int, ...]]:
        """The vectors of all pictures that are left [P', width], and how many each has."""
        x, token = self.seen(footage)
        made, lengths = self.reduce(footage.with_rows(x))
        if token is None:
            return made, tuple(length for each in lengths for length in each)
        if self.spec.video_token == "alone":
            return token, (1,) * len(token)
        pieces = made.split([sum(each) for each in lengths])
        rows = torch.cat([part for n, piece in enumerate(pieces) for part in (token[n : n + 1], piece)])
        return rows, tuple(length for each in lengths for length in (1, *each))

    def seen(self, footage: Footage) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The vectors of all patches after the layers, and of the token of each video."""
        patches, spec = footage.patches, self.spec
        code = coded(footage.elapsed, footage.frames, patches.lengths, self.width, by=spec.times, rate=spec.rate)
        x = patches.rows if code is None else patches.rows + code.to(patches.rows)
        token = self.video_token.expand(len(footage.frames), -1) if spec.video_token != "none" else None
        orders = orders_of(spec, footage, self.merge)
        for layer in self.layers:
            x, token = layer(x, token, orders, footage.frames)
        return self.norm(x), None if token is None else self.norm(token)


def orders_of(spec: AttendingSpec, footage: Footage, merge: int) -> list[Order]:
    """In which orders a layer sees the patches, one after the other."""
    match spec.kind:
        case "frames":
            return []
        case "joint":
            return [by_video(footage)]
        case "axial":
            return [by_place(footage), by_line(footage, 1, merge), by_line(footage, 0, merge)]
        case _:
            return [by_place(footage), by_frame(footage)]


def _with_token(
    rows: torch.Tensor, token: torch.Tensor, order: Order, attention: nn.Module, frames: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in segments before each of which stands the token of its video; what the segments make of it is
    averaged over them."""
    lengths = order.borders.lengths
    per_video = frames if len(lengths) == sum(frames) else (1,) * len(frames)
    owners = [video for video, count in enumerate(per_video) for _ in range(count)]
    pieces = rows.split(lengths)
    whole = torch.cat([part for at, piece in zip(owners, pieces, strict=True) for part in (token[at : at + 1], piece)])
    borders = Borders.of([length + 1 for length in lengths], rows.device)
    made = attention(whole, borders)
    heads = borders.cu_seqlens[:-1].long()
    inside = torch.ones(len(whole), dtype=torch.bool, device=rows.device).index_fill(0, heads, False)
    shares = torch.tensor(per_video, device=rows.device)
    index = torch.tensor(owners, device=rows.device)
    mean = torch.zeros_like(token, dtype=made.dtype).index_add(0, index, made[heads]) / shares[:, None]
    return made[inside], mean
