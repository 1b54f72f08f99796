"""Vectors of all ranks, with gradients: gathered at once, or handed round in a ring.

Ranks may hold different numbers of rows. The loss of a step is the sum of what ranks compute, and gradients of weights
are added up over ranks; so the gradient of a vector is the sum of what every rank asks of it, and no factor appears.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import distributed
from torch.nn import functional as F

from mmdata.types import World


def counts(mine: int, world: World) -> list[int]:
    """How many rows each rank has."""
    if world.ranks == 1:
        return [mine]
    every = torch.zeros(world.ranks, dtype=torch.int64)
    every[world.rank] = mine
    distributed.all_reduce(every)
    return [int(each) for each in every.tolist()]


def gathered(rows: torch.Tensor, each: Sequence[int], world: World) -> torch.Tensor:
    """The rows of every rank, in order of ranks: [n, ...] -> [sum(each), ...]. Its gradient goes back to the rank that
    a row came from, added up over ranks. All ranks call it together."""
    if world.ranks == 1:
        return rows
    found: torch.Tensor = _Gather.apply(_attached(rows), tuple(each), world)  # type: ignore[no-untyped-call]
    return found


def around(rows: torch.Tensor, each: Sequence[int], world: World) -> Iterator[tuple[int, torch.Tensor]]:
    """The rows of every rank, one rank after the other, beginning with one's own: (rank, rows [each[rank], ...]). What
    a rank holds it hands on to the next, so that nobody ever holds all; gradients travel back the same way. All ranks
    go through it together, to its end."""
    if world.ranks == 1:
        yield 0, rows
        return
    held = _filled(_attached(rows), max(each))
    for turn in range(world.ranks):
        source = (world.rank - turn) % world.ranks
        yield source, held[: each[source]]
        if turn + 1 < world.ranks:
            held = _HandOn.apply(held, world)  # type: ignore[no-untyped-call]


def _attached(rows: torch.Tensor) -> torch.Tensor:
    """Rows that take part in the exchange of gradients. Those of a rank without pairs, made of nothing by weights that
    are held, carry none, and the others would wait for it."""
    if not torch.is_grad_enabled() or rows.requires_grad or not rows.is_floating_point():
        return rows
    return rows.detach().requires_grad_()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, each: tuple[int, ...], world: World) -> torch.Tensor:
        ctx.each, ctx.world = each, world
        mine = _filled(rows.detach(), max(each))
        held = [torch.empty_like(mine) for _ in each]
        distributed.all_gather(held, mine)
        return torch.cat([part[:count] for part, count in zip(held, each, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        whole = gradients[0].contiguous()
        distributed.all_reduce(whole)
        first = sum(ctx.each[: ctx.world.rank])
        return whole[first : first + ctx.each[ctx.world.rank]], None, None


class _HandOn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, world: World) -> torch.Tensor:
        ctx.world = world
        return _passed(rows, world, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _passed(gradients[0], ctx.world, -1), None


def _passed(rows: torch.Tensor, world: World, by: int) -> torch.Tensor:
    """What the rank `by` before has, while the rank `by` behind gets what is here."""
    received = torch.empty_like(rows, memory_format=torch.contiguous_format)
    to, source = (world.rank + by) % world.ranks, (world.rank - by) % world.ranks
    work = distributed.batch_isend_irecv(
        [
            distributed.P2POp(distributed.isend, rows.contiguous(), to),
            distributed.P2POp(distributed.irecv, received, source),
        ]
    )
    for each in work:
        each.wait()
    return received


def _filled(rows: torch.Tensor, most: int) -> torch.Tensor:
    """Zeros at the end, up to `most` rows, one at least: all ranks exchange equal shapes."""
    short = max(most, 1) - len(rows)
    return F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, short)).contiguous()
