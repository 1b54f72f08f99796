"""The mixer that a spec asks for, over its opened datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mmdata import rng
from mmdata.stream.mix import Mixer, Part
from mmdata.stream.order import Order
from mmdata.stream.schedule import Controlled, weights_of
from mmdata.stream.spec import StreamSpec


class Sharded(Protocol):
    """What a mixer needs to know of a dataset."""

    @property
    def shard_firsts(self) -> npt.NDArray[np.int64]: ...

    def __len__(self) -> int: ...


class Head:
    """The first samples of a dataset, as many as its `limit` lets through; all else is the dataset's own."""

    def __init__(self, dataset: Sharded, limit: int | None) -> None:
        self._samples = len(dataset) if limit is None else min(limit, len(dataset))
        firsts = dataset.shard_firsts
        shards = int(np.searchsorted(firsts, self._samples))
        self.shard_firsts = firsts if self._samples == len(dataset) else np.append(firsts[:shards], self._samples)

    def __len__(self) -> int:
        return self._samples


def mixer_of(
    datasets: Sequence[Sharded], spec: StreamSpec, *, controlled: Controlled = lambda block: {}
) -> Mixer | None:
    """The mixer of a spec whose datasets have weights, else None. `controlled` is `ControlLog.weights` of the run."""
    if not spec.weighted:
        return None
    parts = []
    for number, (dataset, source) in enumerate(zip(datasets, spec.sources, strict=True)):
        head = Head(dataset, source.limit)
        order = Order(
            n=len(head),
            shuffle=spec.shuffle,
            # Datasets of like size are not to come in like orders.
            seed=int(rng.generator("dataset", spec.seed, number).integers(2**62)),
            block_samples=spec.block_samples,
            shard_firsts=head.shard_firsts if spec.shuffle in ("shard", "block") else None,
        )
        parts.append(Part(name=source.title, order=order, epochs=source.epochs))
    weights = weights_of(spec.sources, spec.schedule, block_samples=spec.block_samples, controlled=controlled)
    return Mixer(parts, weights, block_samples=spec.block_samples, weigh_by=spec.weigh_by)
