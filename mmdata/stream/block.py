"""A planned block: packs as arrays of numbers, each made an object when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import numpy.typing as npt

from mmdata.pack import Bins
from mmdata.shards.dataset import Dataset
from mmdata.stream.measure import Measured
from mmdata.stream.position import Position
from mmdata.types import Cost, Item, Pack


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """A planned block: its packs in their order, and the samples it had to leave out or change, by reason."""

    epoch: int
    number: int
    measured: Measured
    bins: Bins
    """Samples (numbers into `measured`) of each pack, packs in order."""
    costs: npt.NDArray[np.int64]
    """int64 [P, 4]: the `Cost` of each pack."""
    over: int
    """Samples that no pack can take for what they hold besides tokens."""
    after: Position
    """Where the next block begins."""
    padded: bool
    """Whether the samples of a pack are rows of their own."""
    keyed: bool
    """Whether samples are known by their keys (without a family nobody asks)."""
    datasets: Sequence[Dataset]
    known: list[Sequence[str]] = field(default_factory=list, repr=False)
    """The keys of all samples, once they are known."""

    @property
    def packs(self) -> Packs:
        """The packs, made one by one as they are asked for."""
        return Packs(self)

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """int64 [P]: samples' tokens in each pack."""
        return self.costs[:, 0]

    @property
    def left_out(self) -> Counter[str]:
        """Samples that are in no pack, by reason."""
        return Counter(self.measured.reasons.values()) + Counter(over_capacity=self.over)

    @property
    def changed(self) -> Counter[str]:
        """Samples that were made to fit, by what was done."""
        return Counter(self.measured.outcomes.values())

    def fill(self, capacity: int) -> float:
        """Share of all tokens of its packs that are samples' tokens, 0 to 1; 1 for no packs."""
        return int(self.tokens.sum()) / (len(self.bins) * capacity) if len(self.bins) else 1.0

    def pack(self, number: int) -> Pack:
        """Pack `number`, 0 <= number < packs."""
        members = self.bins.items[self.bins.offsets[number] : self.bins.offsets[number + 1]]
        draws, measured = self.measured.draws, self.measured
        keys = self.keys()
        items = tuple(
            Item(
                position=position,
                key=keys[i],
                tokens=tokens,
                media=measured.plans[i],
                dataset=dataset,
                epoch=epoch,
                trim=measured.trims.get(i),
                damaged=measured.damaged.get(i),
            )
            for i, position, tokens, dataset, epoch in zip(
                members.tolist(),
                draws.position[members].tolist(),
                measured.tokens[members].tolist(),
                draws.dataset[members].tolist(),
                draws.epoch[members].tolist(),
                strict=True,
            )
        )
        cost = Cost(*self.costs[number].tolist())
        return Pack(epoch=self.epoch, block=self.number, number=number, items=items, cost=cost, padded=self.padded)

    def keys(self) -> Sequence[str]:
        """The key of each drawn sample, looked up for the whole block when it is first asked for."""
        if not self.known:
            keys = np.full(len(self.measured), "", object)
            draws = self.measured.draws
            for number in np.unique(draws.dataset).tolist() if self.keyed else ():
                at = np.flatnonzero(draws.dataset == number)
                keys[at] = self.datasets[number].keys_at(draws.position[at])
            self.known.append(keys.tolist())
        return self.known[0]


@dataclass(frozen=True, slots=True, eq=False)
class Packs(Sequence[Pack]):
    """The packs of a block."""

    block: Block

    def __len__(self) -> int:
        return len(self.block.bins)

    @overload
    def __getitem__(self, at: int) -> Pack: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Pack, ...]: ...

    def __getitem__(self, at: int | slice) -> Pack | tuple[Pack, ...]:
        numbers = range(len(self))[at]
        if isinstance(numbers, range):
            return tuple(self.block.pack(number) for number in numbers)
        return self.block.pack(numbers)

    def __iter__(self) -> Iterator[Pack]:
        return (self.block.pack(number) for number in range(len(self)))
