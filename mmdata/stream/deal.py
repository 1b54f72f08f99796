"""Dealing: which rank and worker gets which pack of which step. Integers in, integers out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from mmdata.stream.plan import Planner, Position
from mmdata.types import Pack, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a run is: the position of the next pack, the packs taken so far, and the epoch it began with."""

    position: Position = field(default_factory=Position)
    taken: int = 0
    first_epoch: int = 0


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

    Step s takes packs s * global_batch and following; they go round the ranks in turn. So what is taken after any
    micro-step is a prefix of one sequence, from which any other number of ranks can go on.
    """
    packs = planner.packs(start.position, None if epochs is None else start.first_epoch + epochs)
    taken = start.taken
    while chunk := list(islice(packs, global_batch - taken % global_batch)):
        micros = -(-len(chunk) // world.ranks)
        for micro in range(micros):
            mine = micro * world.ranks + world.rank
            upto = min((micro + 1) * world.ranks, len(chunk))
            yield Deal(
                step=taken // global_batch,
                micro=micro,
                micros=micros,
                pack=chunk[mine][0] if mine < len(chunk) else None,
                after=Cursor(position=chunk[upto - 1][1], taken=taken + upto, first_epoch=start.first_epoch),
            )
        taken += len(chunk)
