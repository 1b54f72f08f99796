"""What heads of videos look at: what the towers made of a batch, before connectors, and which of it is which video."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmdata.errors import SpecError
from mmdata.views.patches import patch_coordinates
from mmtrain.models.connectors.patches import Patches
from mmtrain.models.heads.targets import fields_of
from mmtrain.models.placeholders import segments
from mmtrain.models.towers.pictures import SQUARES, shown
from mmtrain.models.video.batches import scenes

UNITS = ("actions", "quality", "two_stream", "offset")
"""Names of heads of videos. Each is also what its losses are counted by: the videos that teach it."""


@dataclass(frozen=True, slots=True)
class Towers:
    """Of one forward pass: the patches of all pictures after `model.video`, and the vectors [T, width] of all
    sounds."""

    patches: Patches | None = None
    sound: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """A video of a batch (an image is one of one frame): the number of its segment, how many frames the tower has seen,
    its first picture and how many it has, as `model.video` left them, and at how many seconds float32 [pictures] from
    the first each is shown, where these are frames."""

    segment: int
    frames: int
    first: int
    count: int
    seconds: torch.Tensor

    def rows(self, towers: Towers) -> torch.Tensor:
        """A vector for each picture, the mean of its patches: [pictures, width]."""
        assert towers.patches is not None, "there is a video"
        lengths = towers.patches.lengths
        start, size = sum(lengths[: self.first]), lengths[self.first]
        rows = towers.patches.rows[start : start + self.count * size]
        return rows.unflatten(0, (self.count, size)).mean(1)


def films(model: Any, batch: Mapping[str, Any]) -> list[Film]:
    """The videos of a native model's batch, in the order in which the tower has them."""
    body = model.base_model
    found = shown(getattr(body, "vision_tower", None), body.config, batch)
    if not found:
        return []
    ends, firsts = segments(batch)[1:].tolist(), body.first_tokens(batch).tolist()
    result, at = [], 0
    for seen, count, seconds in scenes(body.video.spec, found, batch):
        segment = bisect.bisect_right(ends, firsts[at])
        result.append(Film(segment=segment, frames=seen, first=at, count=count, seconds=seconds))
        at += count
    return result


def told(batch: Mapping[str, Any], film: Film) -> Mapping[str, Any]:
    """What the sample of a video says of itself (`data.carry`)."""
    fields = fields_of(batch)
    return fields[film.segment] if fields else {}


def trained(batch: Mapping[str, Any], weights: torch.Tensor) -> list[bool]:
    """Of each segment, whether any of its labels weighs anything: float32 [T]."""
    return [bool((piece != 0).any()) for piece in weights.split(segments(batch).diff().tolist())]


def frames(model: Any, batch: Mapping[str, Any]) -> list[torch.Tensor]:
    """The pixels of all pictures as the tower sees them, normalised, float32 [3, H, W] each: put together of a row of
    patches, or as they are."""
    if (grids := batch.get("image_grid_thw")) is None:
        return [each.float() for name in SQUARES if batch.get(name) is not None for each in batch[name]]
    config = model.base_model.config
    patch, found, at = config.vision_config.patch_size, list[torch.Tensor](), 0
    for time, rows, columns in grids.tolist():
        size = rows * columns
        places = torch.from_numpy(patch_coordinates((1, rows, columns), config.merge))
        index = (places[:, 0] * columns + places[:, 1]).to(batch["pixel_values"].device)
        for _ in range(time):
            mine = batch["pixel_values"][at : at + size].float()
            whole = torch.empty_like(mine).index_copy(0, index, mine).view(rows, columns, 3, patch, patch)
            found.append(whole.permute(2, 0, 3, 1, 4).reshape(3, rows * patch, columns * patch))
            at += size
    return found


def check(names: list[str], *, filmed: bool, whole: bool, pixels: bool, hears: bool) -> None:
    """Raises SpecError for heads of videos that the other parts give nothing to see; `filmed`: there is `model.video`,
    `whole`: it leaves whole frames, `pixels`: frames can be put together again."""
    for name in names:
        key = f"model.heads.{name}"
        if not filmed:
            raise SpecError(f"{key}: nothing tells when frames are shown; give model.video, {{kind: frames}} at least")
        if name != "two_stream" and not whole:
            raise SpecError(
                f"{key}: model.video leaves no whole frames; take a kind other than hierarchical, video_token: none "
                "and no reduce of kind merge"
            )
        if name == "two_stream" and not pixels:
            raise SpecError(
                f"{key}: it sees pixels; take a tower of kind navit without drop and mixup, or one of fixed size"
            )
        if name == "offset" and not hears:
            raise SpecError(f"{key}: the model hears nothing; give it `audio`, or leave the head out")
