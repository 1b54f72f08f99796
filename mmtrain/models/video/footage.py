"""Frames of several videos in one row, when each is shown, and the orders in which they may be read."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from mmdata.views.patches import patch_coordinates
from mmtrain.models.connectors.patches import Patches
from mmtrain.models.layers import Borders


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """`patches` of N frames after each other, `frames` of each video (an image is a video of one), and the `seconds`
    float32 [N] at which each is shown. The frames of a video have one shape. `starts` are the seconds at which videos
    begin, where their first frames here are not the first. Raises ValueError for frames that do not add up."""

    patches: Patches
    frames: tuple[int, ...]
    seconds: torch.Tensor
    starts: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if sum(self.frames) != len(self.patches.lengths) or len(self.seconds) != len(self.patches.lengths):
            raise ValueError(
                f"{len(self.patches.lengths)} frames, of which videos have {sum(self.frames)}, at {len(self.seconds)} "
                "times"
            )
        for count, lengths in zip(self.frames, self.lengths, strict=True):
            if len(set(lengths)) > 1:
                raise ValueError(f"a video of {count} frames of {sorted(set(lengths))} patches; all must have as many")

    @property
    def lengths(self) -> list[tuple[int, ...]]:
        """The patches of each frame, by video."""
        rest = iter(self.patches.lengths)
        return [tuple(itertools.islice(rest, count)) for count in self.frames]

    @property
    def elapsed(self) -> torch.Tensor:
        """Seconds of each frame from the beginning of its video, float32 [N]."""
        pieces = self.seconds.float().split(self.frames)
        starts = [piece[0] for piece in pieces] if self.starts is None else self.starts
        return torch.cat([piece - start for piece, start in zip(pieces, starts, strict=True)])

    @property
    def places(self) -> tuple[int, ...]:
        """The patches of a frame of each video."""
        return tuple(lengths[0] for lengths in self.lengths)

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """The (rows, columns) of a frame of each video."""
        firsts = [0, *itertools.accumulate(self.frames)][:-1]
        return tuple(self.patches.whole("after model.video")[at] for at in firsts)

    def with_rows(self, rows: torch.Tensor) -> Footage:
        return replace(self, patches=replace(self.patches, rows=rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Rows put into another order, int64 [P], cut into segments that see each other; None leaves them as they are."""

    index: torch.Tensor | None
    borders: Borders

    def sees(self, rows: torch.Tensor, attend: Callable[[torch.Tensor, Borders], torch.Tensor]) -> torch.Tensor:
        """What `attend` makes of the rows in this order, put back into theirs."""
        if self.index is None:
            return attend(rows, self.borders)
        made = attend(rows[self.index], self.borders)
        return torch.empty_like(made).index_copy(0, self.index, made)


def by_frame(footage: Footage) -> Order:
    """Each frame sees itself: T segments of S."""
    return Order(index=None, borders=Borders.of(footage.patches.lengths, footage.patches.rows.device))


def by_video(footage: Footage) -> Order:
    """Each video sees itself: one segment of T * S."""
    sizes = [count * each for count, each in zip(footage.frames, footage.places, strict=True)]
    return Order(index=None, borders=Borders.of(sizes, footage.patches.rows.device))


def by_place(footage: Footage) -> Order:
    """Each place sees itself at other times: S segments of T."""

    def places(frames: int, each: int, _: tuple[int, int] | None) -> tuple[torch.Tensor, list[int]]:
        return torch.arange(frames * each).view(frames, each).T.flatten(), [frames] * each

    return _order(footage, places, grids=False)


def by_line(footage: Footage, axis: int, merge: int) -> Order:
    """Each row of a frame sees itself (axis 0), or each column (axis 1); patches lie in blocks of merge x merge."""

    def lines(frames: int, each: int, grid: tuple[int, int] | None) -> tuple[torch.Tensor, list[int]]:
        assert grid is not None, "asked for"
        where = torch.from_numpy(patch_coordinates((1, *grid), merge))[:, axis]
        once = where.argsort(stable=True)
        index = (torch.arange(frames)[:, None] * each + once).flatten()
        return index, [grid[1 - axis]] * (frames * grid[axis])

    return _order(footage, lines, grids=True)


Orders = Callable[[int, int, tuple[int, int] | None], tuple[torch.Tensor, list[int]]]


def _order(footage: Footage, each_video: Orders, *, grids: bool) -> Order:
    device, at = footage.patches.rows.device, 0
    shapes = footage.grids if grids else (None,) * len(footage.frames)
    indices, lengths = [], list[int]()
    for count, each, grid in zip(footage.frames, footage.places, shapes, strict=True):
        index, sizes = each_video(count, each, grid)
        indices.append(index + at)
        lengths += sizes
        at += count * each
    index = torch.cat(indices) if indices else torch.zeros(0, dtype=torch.long)
    return Order(index=index.to(device), borders=Borders.of(lengths, device))
