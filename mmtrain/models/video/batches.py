"""The videos of a native model's batch: which frames belong together, and what is left of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmtrain.models.connectors.patches import Patches
from mmtrain.models.towers.pictures import SQUARES, Shown
from mmtrain.models.video import lengths_of
from mmtrain.models.video.footage import Footage
from mmtrain.models.video.planned import COUNTS, TIMES


def filmed(module: nn.Module, patches: Patches, shown: Shown, media: Mapping[str, Any]) -> Patches:
    """A batch's pictures `shown` to the tower, its `patches`, after `model.video`. Grids are left where whole frames
    are."""
    spec: Any = module.spec
    frames = [count for group in _frames(shown, media) for count in group]
    times = _times(len(patches.lengths), media)
    footage = Footage(patches=patches, frames=tuple(frames), seconds=times.to(patches.rows.device))
    rows, lengths = module(footage)
    grids = None
    if not spec.widens and patches.grids is not None:
        each = zip(footage.frames, footage.places, footage.grids, strict=True)
        grids = tuple(grid for count, places, grid in each for _ in lengths_of(spec, count, places))
    return Patches(rows=rows, lengths=lengths, grids=grids)


def left(spec: Any, shown: Shown, media: Mapping[str, Any]) -> Shown:
    """What the connector has of a batch's pictures `shown` to the tower: placeholders, and the patches of each."""
    found: Shown = []
    for (tokens, lengths), frames in zip(shown, _frames(shown, media), strict=True):
        made, at = list[int](), 0
        for count in frames:
            made += lengths_of(spec, count, lengths[at])
            at += count
        found.append((tokens, made))
    return found


def scenes(spec: Any, shown: Shown, media: Mapping[str, Any]) -> list[tuple[int, int, torch.Tensor]]:
    """Of each video of a batch, in the order of `shown`: the frames that the tower sees, the pictures that are left of
    it, and at how many seconds from the first each of these is shown, float32; where they are no whole frames, those
    of the frames."""
    counts = [count for group in _frames(shown, media) for count in group]
    places = [length for _, lengths in shown for length in lengths]
    step = getattr(getattr(spec, "reduce", None), "stride", 1)
    found, at = [], 0
    for count, times in zip(counts, _times(len(places), media).split(counts), strict=True):
        found.append((count, len(lengths_of(spec, count, places[at])), (times - times[0])[::step]))
        at += count
    return found


def _times(frames: int, media: Mapping[str, Any]) -> torch.Tensor:
    """Seconds at which each of so many frames is shown, float32 [frames]. Images of a tower of fixed size come first
    and are untimed."""
    given = media.get(TIMES)
    times = torch.zeros(0) if given is None else given.float() / 1000
    return torch.cat([times.new_zeros(max(0, frames - len(times))), times])


def _frames(shown: Shown, media: Mapping[str, Any]) -> list[list[int]]:
    """The frames of each video, by group of `shown`; an image is a video of one."""
    if not shown:
        return []
    if len(shown) == 1 and media.get(SQUARES[1]) is None and media.get(COUNTS) is None:
        return [[1] * len(shown[0][1])]  # images of a tower of fixed size
    if media.get(COUNTS) is None or media.get(TIMES) is None:
        raise ValueError(f"the batch has frames but neither {COUNTS} nor {TIMES}, by which model.video goes")
    counts = [int(count) for count in media[COUNTS].tolist()]
    return [[1] * len(shown[0][1]), counts] if len(shown) == 2 else [counts]
