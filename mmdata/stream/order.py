"""The order of one index space: any block of any epoch, in bounded time and memory, whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmdata.errors import SpecError
from mmdata.stream.permutation import permute, place_of, round_keys

Shuffle = Literal["none", "shard", "block", "global"]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in an endless order: `offset` samples into a block of an epoch."""

    epoch: int = 0
    block: int = 0
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class Order:
    """In which order n samples come, epoch after epoch, in blocks that are planned independently.

    - `none`: the order of the dataset.
    - `shard`: shards in a keyed order, their rows as they lie, so that reading is sequential.
    - `block`: the same shards, and the samples of each block in a keyed order among themselves: a block opens
      `shards_at_once` shards, which bounds what remote data must be at hand, and mixes them.
    - `global`: one keyed order of all samples.

    Every epoch is a permutation of 0..n-1 of its own; the same fields give the same order everywhere.
    Raises SpecError for `shard` and `block` without the bounds of the shards.
    """

    n: int
    shuffle: Shuffle
    seed: int
    block_samples: int = 10_000
    shard_firsts: Positions | None = None
    """int64 [S + 1]: the first sample of each shard, and n at the end."""

    def __post_init__(self) -> None:
        if self.shuffle in ("shard", "block") and self.shard_firsts is None:
            raise SpecError(f"shuffle: {self.shuffle} needs a dataset with shards; use `global` or `none`")
        if self.shard_firsts is not None and int(self.shard_firsts[-1]) != self.n:
            raise ValueError(f"shards end at {self.shard_firsts[-1]}, not at {self.n}")

    @cached_property
    def blocks(self) -> int:
        """Blocks of an epoch, at least one. They hold `block_samples` samples on average, or up to twice as many
        where there are few."""
        if self._by_shard:
            return max(1, self.pieces // self.shards_at_once)
        return max(1, self.n // self.block_samples)

    @cached_property
    def shards_at_once(self) -> int:
        """How many pieces of shards make a block of `block_samples`. A block has one more at most where an epoch has
        many blocks, and never twice as many."""
        return max(1, -(-self.block_samples * self.pieces // max(1, self.n)))

    @cached_property
    def pieces(self) -> int:
        """Shards, those of more than `block_samples` rows cut into equal pieces."""
        assert self.shard_firsts is not None, self.shuffle
        return len(self.shard_firsts) - 1 if self._cuts is None else int(self._cuts[-1])

    def block(self, epoch: int, number: int) -> Positions:
        """The positions of a block, 0 <= number < blocks, in order: int64."""
        return self._part(epoch, number, 0, self.size(epoch, number))

    def size(self, epoch: int, number: int) -> int:
        """Samples of a block."""
        if self._by_shard:
            starts, stops = self._pieces_of(epoch, number)
            return int((stops - starts).sum())
        return self._first(number + 1) - self._first(number)

    def take(self, at: Place, count: int) -> tuple[Positions, npt.NDArray[np.int32], Place]:
        """The next `count` samples from a place on, across blocks and epochs: positions int64 [count], the epoch of
        each int32 [count], and the place after them. Raises ValueError where there is no sample at all."""
        if count and not self.n:
            raise ValueError("an empty index space has no samples to take")
        positions, epochs, place = [np.empty(0, np.int64)], [np.empty(0, np.int32)], at
        while count:
            # Without shards an epoch is one piece, however many blocks it has.
            end = self.size(place.epoch, place.block) if self._by_shard else self.n - self._first(place.block)
            part = min(count, end - place.offset)
            positions.append(self._part(place.epoch, place.block, place.offset, place.offset + part))
            epochs.append(np.full(part, place.epoch, np.int32))
            place, count = self.skip(place, part), count - part
        return np.concatenate(positions), np.concatenate(epochs), place

    def skip(self, at: Place, count: int) -> Place:
        """The place `count` samples after another, whole blocks at a time. Raises ValueError where there is no sample
        at all."""
        if count and not self.n:
            raise ValueError("an empty index space has no samples to skip")
        if not self.n:
            return at
        if not self._by_shard:
            epochs, rest = divmod(self._first(at.block) + at.offset + count, self.n)
            number = self._block_of(rest, self.n)
            return Place(at.epoch + epochs, number, rest - self._first(number))
        epoch, number, offset = at.epoch, at.block, at.offset + count
        while offset >= (size := self.size(epoch, number)):
            offset -= size
            epoch, number = (epoch, number + 1) if number + 1 < self.blocks else (epoch + 1, 0)
        return Place(epoch, number, offset)

    def place(self, position: int, epoch: int) -> Place:
        """Where the sample at a position stands in an epoch, found without going through it."""
        if not 0 <= position < self.n:
            raise IndexError(f"position {position} of {self.n}")
        if not self._by_shard:
            at = position
            if self.shuffle == "global":
                at = int(place_of(np.array([position]), self.n, round_keys("order", self.seed, epoch))[0])
            number = self._block_of(at, self.n)
            return Place(epoch, number, at - self._first(number))
        piece = self._piece_at(position)
        at = int(place_of(np.array([piece]), self.pieces, round_keys("shards", self.seed, epoch))[0])
        number = self._block_of(at, self.pieces)
        return Place(epoch, number, int(np.flatnonzero(self.block(epoch, number) == position)[0]))

    @property
    def _by_shard(self) -> bool:
        return self.shuffle in ("shard", "block")

    def _first(self, number: int) -> int:
        """Samples of an epoch before a block, for orders without shards."""
        return number * self.n // self.blocks

    def _block_of(self, at: int, n: int) -> int:
        """The block that holds number `at` of n that are spread over the blocks."""
        return ((at + 1) * self.blocks - 1) // n

    @cached_property
    def _cuts(self) -> Positions | None:
        """The number of pieces before each shard, int64 [S + 1]; None where every shard is one."""
        assert self.shard_firsts is not None, self.shuffle
        rows = np.diff(self.shard_firsts)
        if not len(rows) or int(rows.max()) <= self.block_samples:
            return None
        return np.concatenate([[0], np.maximum(1, -(-rows // self.block_samples)).cumsum()])

    def _pieces_of(self, epoch: int, number: int) -> tuple[Positions, Positions]:
        """First and last + 1 position of each piece of a block, in their order."""
        assert self.shard_firsts is not None, self.shuffle
        places = np.arange(number * self.pieces // self.blocks, (number + 1) * self.pieces // self.blocks)
        numbers = permute(places, self.pieces, round_keys("shards", self.seed, epoch))
        if self._cuts is None:
            return self.shard_firsts[numbers], self.shard_firsts[numbers + 1]
        shards = np.searchsorted(self._cuts, numbers, side="right") - 1
        firsts = self.shard_firsts[shards]
        rows, count = self.shard_firsts[shards + 1] - firsts, self._cuts[shards + 1] - self._cuts[shards]
        part = numbers - self._cuts[shards]
        return firsts + rows * part // count, firsts + rows * (part + 1) // count

    def _piece_at(self, position: int) -> int:
        assert self.shard_firsts is not None, self.shuffle
        shard = int(np.searchsorted(self.shard_firsts, position, side="right")) - 1
        if self._cuts is None:
            return shard
        first, stop, before = int(self.shard_firsts[shard]), int(self.shard_firsts[shard + 1]), int(self._cuts[shard])
        count = int(self._cuts[shard + 1]) - before
        return before + ((position - first + 1) * count - 1) // (stop - first)

    def _part(self, epoch: int, number: int, start: int, stop: int) -> Positions:
        """Samples start..stop-1 of a block, and without shards of those after it."""
        if not self._by_shard:
            places = np.arange(start, stop, dtype=np.int64) + self._first(number)
            if self.shuffle == "none":
                return places
            return permute(places, self.n, round_keys("order", self.seed, epoch))
        starts, stops = self._pieces_of(epoch, number)
        sizes = stops - starts
        ends = sizes.cumsum()
        places = np.arange(start, stop, dtype=np.int64)
        if self.shuffle == "block":
            places = permute(places, int(ends[-1]), round_keys("block", self.seed, epoch, number))
        piece = np.searchsorted(ends, places, side="right")
        return np.asarray(places - (ends - sizes)[piece] + starts[piece])


def order(positions: Positions, n: int, *, shuffle: Shuffle, seed: int, epoch: int) -> Positions:
    """Which sample stands at each place of an epoch, for orders that know no shards: int64 in 0..n-1.

    >>> order(np.arange(8), 8, shuffle="none", seed=0, epoch=0).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    if shuffle == "none":
        return positions.astype(np.int64)
    if shuffle != "global":
        raise ValueError(f"{shuffle} orders shards: use Order")
    return permute(positions, n, round_keys("order", seed, epoch))
