"""Several datasets as one index space: each sample as often per epoch as its dataset is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mmdata.stream.draws import Draws
from mmdata.stream.order import Order, Shuffle


class Sharded(Protocol):
    """What a pool needs to know of a dataset."""

    @property
    def shard_firsts(self) -> npt.NDArray[np.int64]: ...

    def __len__(self) -> int: ...


class Pool:
    """Datasets one after the other, each `repeats` times. An epoch is one pass over all of it; the second copy of a
    sample counts as the dataset's next epoch, so that chance treats it anew."""

    def __init__(
        self,
        datasets: Sequence[Sharded],
        *,
        shuffle: Shuffle,
        seed: int,
        block_samples: int,
        repeats: Sequence[int] | None = None,
    ) -> None:
        self._repeats = np.array([1] * len(datasets) if repeats is None else repeats, np.int64)
        self._sizes = np.array([len(dataset) for dataset in datasets], np.int64)
        self._firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._sizes * self._repeats)])
        self.order = Order(
            n=int(self._firsts[-1]),
            shuffle=shuffle,
            seed=seed,
            block_samples=block_samples,
            shard_firsts=self._shard_firsts(datasets) if shuffle in ("shard", "block") else None,
        )

    @property
    def blocks(self) -> int:
        """Blocks of an epoch."""
        return self.order.blocks

    def draws(self, epoch: int, number: int) -> Draws:
        """The samples of a block, in order."""
        places = self.order.block(epoch, number)
        if len(self._sizes) == 1 and self._repeats[0] == 1:
            n = len(places)
            return Draws(dataset=np.zeros(n, np.int16), position=places, epoch=np.full(n, epoch, np.int32))
        dataset = np.searchsorted(self._firsts, places, side="right") - 1
        copy, position = np.divmod(places - self._firsts[dataset], self._sizes[dataset])
        return Draws(
            dataset=dataset.astype(np.int16),
            position=position,
            epoch=(epoch * self._repeats[dataset] + copy).astype(np.int32),
        )

    def indices(self, dataset: int, position: int) -> list[int]:
        """Where in the pool the copies of a sample lie; none of one beyond what the pool has of its dataset."""
        if position >= self._sizes[dataset]:
            return []
        first, size = int(self._firsts[dataset]), int(self._sizes[dataset])
        return [first + copy * size + position for copy in range(int(self._repeats[dataset]))]

    def _shard_firsts(self, datasets: Sequence[Sharded]) -> npt.NDArray[np.int64]:
        if len(datasets) == 1 and self._repeats[0] == 1:
            return datasets[0].shard_firsts
        parts = [
            dataset.shard_firsts[1:] + first + copy * size
            for dataset, repeat, first, size in zip(
                datasets, self._repeats.tolist(), self._firsts.tolist(), self._sizes.tolist(), strict=False
            )
            for copy in range(repeat)
        ]
        return np.concatenate([np.zeros(1, np.int64), *parts])
