"""The pictures of a batch through a vision tower, ours or one of fixed size: which there are, and what it makes of
them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from mmdata.views.patches import patch_coordinates
from mmtrain.models.connectors import Patches, in_blocks
from mmtrain.models.towers.mixup import mixed
from mmtrain.models.towers.navit import Navit

_INTERPOLATE = "interpolate_pos_encoding"
SQUARES = ("pixel_values", "pixel_values_videos")
"""Pictures and frames for towers of fixed size."""
Shown = list[tuple[tuple[int | None, ...], list[int]]]


def shown(tower: Any, config: Any, media: Mapping[str, Any]) -> Shown:
    """The placeholders of a batch's pictures, and the patches of each picture, in the order in which the connector has
    them: images and frames of videos as they come, or of towers of fixed size all images first."""
    ids = config.image_token_id, config.video_token_id
    if config.vision_config is None:
        return []
    if isinstance(tower, Navit):
        return [] if media.get("pixel_values") is None else [(ids, _lengths(media))]
    patch = config.vision_config.patch_size
    found: Shown = []
    for name, token in zip(SQUARES, ids, strict=True):
        squares = media.get(name)
        if squares is not None:
            found.append(((token,), [(squares.shape[-1] // patch) ** 2] * len(squares)))
    return found


def see(tower: Any, config: Any, media: Mapping[str, Any]) -> Patches | None:
    """What a tower makes of a batch's pictures, in the order of `shown`; None without any."""
    found = shown(tower, config, media)
    if not found:
        return None
    lengths = tuple(length for _, pictures in found for length in pictures)
    if isinstance(tower, Navit):
        pixels, grids = media["pixel_values"], None
        where = media.get("patch_coordinates")
        if where is None:
            each = media["image_grid_thw"].tolist()
            places = [torch.from_numpy(patch_coordinates(tuple(grid), config.merge)) for grid in each]
            where, grids = torch.cat(places), tuple((h, w) for t, h, w in each for _ in range(t))
        rows = tower(pixels, where.to(pixels.device), list(lengths), grids, config.vision_layer)
        if tower.mixup and tower.training:
            assert grids is not None, "mixup is of whole pictures; the spec refuses what drops"
            rows = mixed(tower, config, pixels, rows, where, grids)
        return Patches(rows=rows, lengths=lengths, grids=grids)
    given = [name for name in SQUARES if media.get(name) is not None]
    made = [_squares(tower, config, media[name]) for name in given]
    sides = [media[name].shape[-1] // config.vision_config.patch_size for name in given for _ in media[name]]
    return Patches(rows=torch.cat(made), lengths=lengths, grids=tuple((side, side) for side in sides))


def _squares(tower: Any, config: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures [N, 3, S, S] through a tower of fixed size -> [patches, width]; tokens for classes and registers are
    left out. Of another size than the tower was trained with, its table of positions is interpolated, by those towers
    that do not anyway."""
    layer, patch = config.vision_layer, tower.config.patch_size
    told: dict[str, Any] = {"output_hidden_states": layer != -1}
    if pixels.shape[-1] != tower.config.image_size and _INTERPOLATE in inspect.signature(tower.forward).parameters:
        told[_INTERPOLATE] = True
    output = tower(pixels.to(tower.dtype), **told)
    hidden = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    rows = pixels.shape[-1] // patch
    patches = hidden[:, hidden.shape[1] - rows * rows :]
    return in_blocks(patches, rows, config.merge)


def _lengths(media: Mapping[str, Any]) -> list[int]:
    """The patches of every picture (a frame of a video is one)."""
    counts, grids = media.get("patch_counts"), media.get("image_grid_thw")
    if counts is not None:
        return [int(count) for count in counts.tolist()]
    assert grids is not None, "the batch has patches but no grid"
    return [rows * columns for frames, rows, columns in grids.tolist() for _ in range(frames)]
