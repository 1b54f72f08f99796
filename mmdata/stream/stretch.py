"""Stretches: the samples of one block that a rank takes without a family, read in one go; states follow when asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from mmdata.stream.block import Block
from mmdata.stream.deal import Cursor, Deal, deal
from mmdata.stream.plan import Planner
from mmdata.stream.position import Position
from mmdata.types import World

Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stretch:
    """This rank's samples of a block, in their order."""

    taken: Array
    """Of each, how many packs of the run come before it."""
    position: Array
    dataset: npt.NDArray[np.int16]
    anchor: tuple[int, Position] | None
    """Packs taken when the first step begins that begins here, and its position."""


class Stretches:
    """The stretches of a run from a cursor on, at which a step begins. Samples of a stream without a family are packs
    that cost alike, and are dealt in turn (`mmdata.stream.deal.table`), so that no pack need be made to know whose it
    is."""

    def __init__(self, planner: Planner, start: Cursor, *, epochs: int | None, global_batch: int, world: World) -> None:
        assert not start.dealt, start
        assert start.taken % global_batch == 0, start
        self._planner = planner
        self._start = start
        self._epochs = epochs
        self._batch = global_batch
        self._world = world
        self._known: list[tuple[int, Position]] = []
        """Packs taken when blocks begin, and where: from that on in which the last step of a stretch begins."""

    def __iter__(self) -> Iterator[Stretch]:
        taken, end = self._start.taken, None if self._epochs is None else self._start.first_epoch + self._epochs
        for at, block in self._planner.reached(self._start.position, end):
            begun = taken - taken % self._batch
            while len(self._known) > 1 and self._known[1][0] <= begun:
                del self._known[0]
            self._known.append((taken, at))
            yield self._stretch(taken, at, block)
            taken += len(block.bins) - at.pack

    def deal(self, taken: int) -> Deal:
        """The deal of this rank's sample that has so many packs before it; it is in the last stretch."""
        taken = int(taken)
        begun = taken - taken % self._batch
        start = Cursor(position=self._position(begun), taken=begun, first_epoch=self._start.first_epoch)
        dealing = deal(self._planner, start, epochs=self._epochs, global_batch=self._batch, world=self._world)
        return next(islice(dealing, (taken - begun) // self._world.ranks, None))

    def _position(self, taken: int) -> Position:
        count, at = next(each for each in reversed(self._known) if each[0] <= taken)
        return replace(at, pack=at.pack + taken - count)

    def _stretch(self, taken: int, at: Position, block: Block) -> Stretch:
        numbers = np.arange(at.pack, len(block.bins))
        counts = numbers + (taken - at.pack)
        if self._world.ranks > 1:
            mine = counts % self._batch % self._world.ranks == self._world.rank
            numbers, counts = numbers[mine], counts[mine]
        items, draws = block.bins.items[numbers], block.measured.draws
        first = -(-taken // self._batch) * self._batch
        inside = first - taken < len(block.bins) - at.pack
        return Stretch(
            taken=counts,
            position=draws.position[items],
            dataset=draws.dataset[items],
            anchor=(first, replace(at, pack=at.pack + first - taken)) if inside else None,
        )
