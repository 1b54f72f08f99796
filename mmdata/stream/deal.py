"""Dealing: which rank gets which pack of which step, in balance. Integers in, integers out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from mmdata.pack import balance, balance_row
from mmdata.stream.cost import loads
from mmdata.stream.plan import Planner
from mmdata.stream.position import Position
from mmdata.types import Pack, World

Table = npt.NDArray[np.int64]
"""[ranks, micro-steps]: numbers of packs, -1 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a run is: the position at which the next step begins, the packs taken before it, and the epoch that the
    run began with.

    Within a step, `position` is that of its first pack, `size` the number of its packs, and `dealt` says what has been
    done of it: (ranks, micro-steps) for every number of ranks that has worked on it, so that what is left is known.
    """

    position: Position = field(default_factory=Position)
    taken: int = 0
    first_epoch: int = 0
    size: int = 0
    dealt: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """What one rank does in micro-step `micro` of the `micros` that are left of `step`; no pack means a dummy.

    `after` is where all ranks together are once each has done this micro-step."""

    step: int
    micro: int
    micros: int
    pack: Pack | None
    after: Cursor


def deal(planner: Planner, start: Cursor, *, epochs: int | None, global_batch: int, world: World) -> Iterator[Deal]:
    """This rank's share of every pack from `start` on; every rank gets equally many deals.

    Step s takes packs s * global_batch and following, and deals them so that ranks have alike to do (`table`). A step
    that was left half done is done to its end first, as large as it was begun; its packs that are left are dealt
    anew unless the number of ranks is what it was.
    """
    places = planner.places(start.position, None if epochs is None else start.first_epoch + epochs)
    at, taken, dealt = start.position, start.taken, start.dealt
    size = start.size if dealt else global_batch - taken % global_batch
    while chunk := list(islice(places, size)):
        if not dealt and (world.ranks == 1 or len(chunk) <= world.ranks):  # in turn, as `table` has it
            mine, done = list(range(world.rank, len(chunk), world.ranks)) or [-1], 0
        else:
            costs = loads([block.costs[number] for block, number, _ in chunk], planner.spec.costs)
            if dealt or (costs == costs[:1]).all():
                plan, done = _left(costs, dealt, world.ranks)
                mine = plan[world.rank].tolist()
            else:
                mine, done = balance_row(costs, world.ranks, world.rank).tolist(), 0
        earlier = dealt[:-1] if done else dealt
        micros = len(mine)
        for micro in range(done, micros):
            number = mine[micro]
            yield Deal(
                step=taken // global_batch,
                micro=micro - done,
                micros=micros - done,
                pack=chunk[number][0].pack(chunk[number][1]) if number >= 0 else None,
                after=Cursor(
                    position=at,
                    taken=taken,
                    first_epoch=start.first_epoch,
                    size=len(chunk),
                    dealt=(*earlier, (world.ranks, micro + 1)),
                )
                if micro + 1 < micros
                else Cursor(position=chunk[-1][2], taken=taken + len(chunk), first_epoch=start.first_epoch),
            )
        at, taken, dealt = chunk[-1][2], taken + len(chunk), ()
        size = global_batch - taken % global_batch


def table(costs: npt.NDArray[np.float64], ranks: int) -> Table:
    """Which pack each rank does in each micro-step, for costs [n, kinds]: balanced (`mmdata.pack.balance`), or in turn
    where there is nothing to balance: one rank, one pack each, or packs alike.

    >>> table(np.array([[9.0], [5.0], [4.0], [4.0], [3.0], [3.0]]), 2).tolist()
    [[0, 4, 5], [1, 2, 3]]
    >>> table(np.ones((3, 1)), 2).tolist()
    [[0, 2], [1, -1]]
    """
    if ranks == 1 or len(costs) <= ranks or (costs == costs[:1]).all():
        micros = -(-len(costs) // ranks)
        numbers = np.arange(ranks * micros).reshape(micros, ranks).T
        return np.where(numbers < len(costs), numbers, -1)
    return balance(costs, ranks)


def _left(costs: npt.NDArray[np.float64], dealt: tuple[tuple[int, int], ...], ranks: int) -> tuple[Table, int]:
    """The table of a step's packs for `ranks`, and how many of its micro-steps are done."""
    left = np.arange(len(costs))
    for number, (others, micros) in enumerate(dealt):
        plan = _renumbered(table(costs[left], others), left)
        if others == ranks and number + 1 == len(dealt):
            return plan, micros
        left = np.setdiff1d(left, plan[:, :micros])
    return _renumbered(table(costs[left], ranks), left), 0


def _renumbered(plan: Table, numbers: npt.NDArray[np.int64]) -> Table:
    return np.where(plan >= 0, numbers[plan], -1)
