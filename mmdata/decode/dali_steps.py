"""Pixel operations as DALI operators over a batch: each a call with every picture's own numbers as its arguments."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np

from mmdata.decode.colour import adjust
from mmdata.decode.dali_pixels import dynamic
from mmdata.rng import kept_rows
from mmdata.types import (
    Colour,
    Crop,
    Flip,
    Fork,
    KeepRows,
    Normalise,
    Op,
    Pad,
    Patchify,
    PixelOp,
    Resize,
    Standardise,
    Tile,
)


@dataclass(frozen=True, slots=True)
class Turn:
    """Make stored pixels upright, by their EXIF orientation."""

    orientation: int


@dataclass(frozen=True, slots=True)
class Planes:
    """Channels before height and width, as in the result, normalised on the way."""

    normalise: Normalise | None


Step = PixelOp | Turn | Planes
T = TypeVar("T")
Batch = Any
"""nvidia.dali.experimental.dynamic.Batch: [H, W, 3] ("HWC") or [N, H, W, 3] ("FHWC") until `Planes`; rows [N, D]."""


def program(ops: Sequence[Op], orientation: int, *, normalised: bool) -> tuple[Step, ...]:
    """The steps that give the result of `ops` over stored pixels; without their final Normalise if not `normalised`.

    Raises ValueError for an operation that is none of pictures.
    """
    steps: list[Step] = list(cast("Sequence[PixelOp]", ops))
    last = next((at for at, op in enumerate(steps) if isinstance(op, Patchify)), len(steps))
    normalise = steps[last - 1] if last and isinstance(steps[last - 1], Normalise) else None
    body, tail = steps[: last - (normalise is not None)], steps[last:]
    wanted = cast("Normalise | None", normalise) if normalised else None
    if not normalised and any(isinstance(op, Normalise | Standardise) for op in body):
        raise ValueError(f"these operations need float32 before their end: {ops}")
    patchify = tail[0] if tail else None
    if not isinstance(patchify, Patchify):
        body.append(Planes(wanted))
    elif wanted is not None:  # Rows of planes are cut from planes, rows of pixels from pixels.
        body.append(wanted if patchify.channels_last else Planes(wanted))
    return (*((Turn(orientation),) if orientation > 1 else ()), *body, *tail)


def kinds(steps: Sequence[Step]) -> Hashable:
    """What must be equal for two pictures' steps to run together: all that DALI takes once for a batch."""
    return tuple(_kind(step) for step in steps)


def _kind(step: Step) -> Hashable:
    match step:
        case Fork(branches):
            return "Fork", tuple(kinds(branch) for branch in branches)
        case Pad():
            return "Pad", step.value
        case Patchify():
            return replace(step, size=1, merge=1, pad_to=step.pad_to and 1)
        case Turn() | Planes() | Normalise() | Standardise():
            return step
        case _:
            return type(step).__name__


def interpret(batch: Batch, programs: Sequence[Sequence[Step]]) -> Batch:
    """Run programs of equal `kinds`, one per picture, over a batch."""
    for steps in zip(*programs, strict=True):
        batch = _STEPS[type(steps[0])](batch, steps)
    return batch


def _turn(batch: Batch, steps: Sequence[Turn]) -> Batch:
    nd, orientation = dynamic(), steps[0].orientation
    if flips := {2: (1, 0), 3: (1, 1), 4: (0, 1), 7: (1, 1)}.get(orientation):
        batch = nd.flip(batch, horizontal=flips[0], vertical=flips[1])
    if orientation >= 5:
        batch = nd.transpose(batch, perm=[1, 0, 2], transpose_layout=False, output_layout="HWC")
    if orientation in (6, 8):
        batch = nd.flip(batch, horizontal=int(orientation == 6), vertical=int(orientation == 8))
    return batch


def _crop(batch: Batch, steps: Sequence[Crop]) -> Batch:
    start = _integers([(op.top, op.left) for op in steps])
    shape = _integers([(op.height, op.width) for op in steps])
    return dynamic().slice(batch, start=start, shape=shape, axis_names="HW")


def _resize(batch: Batch, steps: Sequence[Resize]) -> Batch:
    from nvidia.dali.types import DALIInterpType as By

    filters: dict[str, Any] = {"bilinear": By.INTERP_LINEAR, "bicubic": By.INTERP_CUBIC, "lanczos": By.INTERP_LANCZOS3}
    size = dynamic().as_batch(np.array([(op.height, op.width) for op in steps], np.float32))
    names = _integers([int(filters[op.filter]) for op in steps])
    return dynamic().resize(batch, size=size, interp_type=names, antialias=True)


def _pad(batch: Batch, steps: Sequence[Pad]) -> Batch:
    sizes = [_size(shape, batch.layout) for shape in batch.shape]
    start = [(-op.top, -op.left) for op in steps]
    shape = [
        (height + op.top + op.bottom, width + op.left + op.right)
        for op, (height, width) in zip(steps, sizes, strict=True)
    ]
    return dynamic().slice(
        batch,
        start=_integers(start),
        shape=_integers(shape),
        axis_names="HW",
        out_of_bounds_policy="pad",
        fill_values=[float(value) for value in steps[0].value],
    )


def _flip(batch: Batch, steps: Sequence[Flip]) -> Batch:
    return dynamic().flip(batch, horizontal=1, vertical=0)


def _colour(batch: Batch, steps: Sequence[Colour]) -> Batch:
    """By torch, on the same memory: DALI's operators are others than torchvision's."""
    last = [
        adjust(tensor.torch().movedim(-1, -3), op).movedim(-3, -1).contiguous()
        for tensor, op in zip(batch.tensors.tolist(), steps, strict=True)
    ]
    return dynamic().as_batch(last, layout=batch.layout)


def _tile(batch: Batch, steps: Sequence[Tile]) -> Batch:
    if batch.layout != "HWC":
        raise ValueError("Tile needs one picture [3, H, W]")
    nd = dynamic()
    cut, tiles = [], []
    for op, (height, width, _) in zip(steps, batch.shape, strict=True):
        if height % op.rows or width % op.columns:
            raise ValueError(f"{op} does not divide a picture of {height} x {width}")
        size = height // op.rows, width // op.columns
        cut.append((op.rows, size[0], op.columns, size[1], 3))
        tiles.append((op.rows * op.columns, *size, 3))
    apart = nd.transpose(nd.reshape(batch, shape=_integers(cut), layout=""), perm=[0, 2, 1, 3, 4])
    return nd.reshape(apart, shape=_integers(tiles), layout="FHWC")


def _fork(batch: Batch, steps: Sequence[Fork]) -> Batch:
    nd = dynamic()
    results = [interpret(batch, branch) for branch in zip(*(op.branches for op in steps), strict=True)]
    frames = [
        result if result.layout == "FHWC" else nd.expand_dims(result, axes=[0], new_axis_names="F")
        for result in results
    ]
    return nd.cat(*frames, axis=0)


def _normalise(batch: Batch, steps: Sequence[Normalise]) -> Batch:
    return _normalised(batch, steps[0], batch.layout)


def _planes(batch: Batch, steps: Sequence[Planes]) -> Batch:
    layout = batch.layout.replace("HWC", "CHW")
    if steps[0].normalise is not None:
        return _normalised(batch, steps[0].normalise, layout)
    return dynamic().transpose(batch, perm=[0, 3, 1, 2] if len(layout) == 4 else [2, 0, 1], output_layout=layout)


def _normalised(batch: Batch, op: Normalise, layout: str) -> Batch:
    mean, std = ([float(np.float32(value) * np.float32(255)) for value in values] for values in (op.mean, op.std))
    return dynamic().crop_mirror_normalize(batch, mean=mean, std=std, output_layout=layout)


def _standardise(batch: Batch, steps: Sequence[Standardise]) -> Batch:
    nd = dynamic()
    values = [int(np.prod(_size(shape, batch.layout))) * 3 for shape in batch.shape]
    least = nd.as_batch(np.array([number**-0.5 for number in values], np.float32).reshape(-1, *[1] * batch.ndim))
    mean = nd.reductions.mean(batch, axis_names="HWC", keep_dims=True)
    variance = nd.reductions.variance(batch, mean, axis_names="HWC", keep_dims=True, ddof=int(steps[0].unbiased))
    if batch.device.device_type == "gpu":
        least = least.gpu()
    return nd.normalize(batch, mean=mean, stddev=nd.math.max(nd.math.sqrt(variance), least))


def _patchify(batch: Batch, steps: Sequence[Patchify]) -> Batch:
    nd, first = dynamic(), steps[0]
    if batch.layout not in ("HWC", "CHW"):
        raise ValueError("Patchify needs one picture [3, H, W]")
    grids: list[tuple[int, int]] = []
    cut, rows = [], []
    for op, shape in zip(steps, batch.shape, strict=True):
        height, width = _size(shape, batch.layout)
        block = op.size * op.merge
        if height % block or width % block:
            raise ValueError(f"{height} x {width} pixels are no whole blocks of {block} x {block}")
        grids.append((height // op.size, width // op.size))
        down, across = (height // block, op.merge, op.size), (width // block, op.merge, op.size)
        cut.append((*down, *across, 3) if batch.layout == "HWC" else (3, *down, *across))
        number = height * width // op.size**2
        rows.append((number, op.size**2 * 3) if first.channels_last else (number * 3, op.size**2))
    # The axes of `cut` by name: block row, row in the block, y, then the same of columns, and the channel.
    places = {name: at for at, name in enumerate("RryKkxc" if batch.layout == "HWC" else "cRryKkx")}
    order = [places[name] for name in ("RKrkyxc" if first.channels_last else "RKrkcyx")]
    apart = nd.transpose(nd.reshape(batch, shape=_integers(cut), layout=""), perm=order)
    patches = nd.reshape(apart, shape=_integers(rows), layout="")
    if first.temporal > 1:  # A picture is a video of one frame, repeated.
        patches = nd.stack(*[patches] * first.temporal, axis=1)
    whole = [(high * wide, first.temporal * op.size**2 * 3) for op, (high, wide) in zip(steps, grids, strict=True)]
    patches = nd.reshape(patches, shape=_integers(whole), layout="")
    if first.grid_ids:
        patches = nd.cat(_grid_ids(steps, grids, batch.device), patches, axis=1)
    if first.pad_to is not None:
        if any(high * wide > (op.pad_to or 0) for op, (high, wide) in zip(steps, grids, strict=True)):
            raise ValueError(f"patches of {grids} do not fit into {[op.pad_to for op in steps]}")
        patches = nd.pad(patches, axes=[0], shape=_integers([[op.pad_to] for op in steps]))
    return patches


def _grid_ids(steps: Sequence[Patchify], grids: Sequence[tuple[int, int]], device: Any) -> Batch:
    """Row and column of each patch from 1, float32 [N, 2], in the order of the patches."""
    ids = []
    for op, (high, wide) in zip(steps, grids, strict=True):
        places = np.indices((high, wide), np.float32) + 1
        blocks = places.reshape(2, high // op.merge, op.merge, wide // op.merge, op.merge)
        ids.append(np.ascontiguousarray(blocks.transpose(1, 3, 2, 4, 0).reshape(-1, 2)))
    batch = dynamic().as_batch(ids)
    return batch.gpu() if device.device_type == "gpu" else batch


def _keep_rows(batch: Batch, steps: Sequence[KeepRows]) -> Batch:
    kept = [kept_rows(shape[0], op.count, op.key) for op, shape in zip(steps, batch.shape, strict=True)]
    return dynamic().sequence_rearrange(batch, new_order=dynamic().as_batch([rows.astype(np.int32) for rows in kept]))


def _size(shape: Sequence[int], layout: str) -> tuple[int, int]:
    return shape[layout.index("H")], shape[layout.index("W")]


def _integers(values: Sequence[Any]) -> Batch:
    """An argument of an operator: int32, one row per picture."""
    return dynamic().as_batch(np.array(values, np.int32))


_STEPS: dict[type, Callable[[Batch, Sequence[Any]], Batch]] = {
    Turn: _turn,
    Crop: _crop,
    Resize: _resize,
    Pad: _pad,
    Flip: _flip,
    Colour: _colour,
    Tile: _tile,
    Fork: _fork,
    Normalise: _normalise,
    Planes: _planes,
    Standardise: _standardise,
    Patchify: _patchify,
    KeepRows: _keep_rows,
}
