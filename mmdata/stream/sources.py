"""The datasets of a stream: how much of each belongs to it, and by whom they are mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mmdata import rng
from mmdata.shards.dataset import Dataset
from mmdata.stream.control import ControlLog
from mmdata.stream.forgotten import NONE, Positions, removed
from mmdata.stream.mix import Mixer, Part
from mmdata.stream.order import Order
from mmdata.stream.schedule import coming, weights_of
from mmdata.stream.spec import StreamSpec


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """The first samples of a dataset, which are all that a stream has of it."""

    shard_firsts: npt.NDArray[np.int64]
    """int64 [S + 1]: the first sample of each shard, and how many there are."""
    forgotten: Positions = field(default_factory=lambda: NONE)
    """Those of them that plans leave out, ascending."""

    def __len__(self) -> int:
        return int(self.shard_firsts[-1])


def held(dataset: Dataset, shards: int, limit: int | None, generation: int = 0) -> Held:
    """What the first `shards` shards hold, and of that no more than the first `limit` samples; what is removed as of a
    generation keeps its place in the order, and plans leave it out."""
    firsts = np.asarray(dataset.shard_firsts[: shards + 1], np.int64)
    if limit is not None and limit < firsts[-1]:
        firsts = np.append(firsts[: np.searchsorted(firsts, limit)], limit)
    return Held(firsts, removed(dataset, generation))


def mixer(spec: StreamSpec, parts: Sequence[Held], control: ControlLog | None) -> Mixer | None:
    """Who draws from weighted datasets, each in an order of its own; None where they are pooled."""
    if not spec.weighted:
        return None
    orders = [
        Order(
            n=len(part),
            shuffle=spec.shuffle,
            seed=int(rng.generator("mixture", spec.seed, number).integers(2**62)),
            block_samples=spec.block_samples,
            shard_firsts=part.shard_firsts if spec.shuffle in ("shard", "block") else None,
        )
        for number, part in enumerate(parts)
    ]
    controlled = {} if control is None else {"controlled": control.weights}

    def later(block: int) -> list[bool]:
        entries = [] if control is None else [(entry.block, entry.weights) for entry in control.entries]
        return coming(spec.sources, spec.schedule, block, block_samples=spec.block_samples, controlled=entries)

    return Mixer(
        [
            Part(name=each.title, order=order, epochs=each.epochs)
            for each, order in zip(spec.sources, orders, strict=True)
        ],
        weights_of(spec.sources, spec.schedule, block_samples=spec.block_samples, **controlled),
        block_samples=spec.block_samples,
        weigh_by=spec.weigh_by,
        coming=later,
    )
