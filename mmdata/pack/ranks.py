"""Dealing the packs of a step to ranks so that none has more to do than the others: integers or floats, no clocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]
DOUBLINGS = 4
"""The objective is the sum of (load / mean) ** 16 over ranks and kinds of cost: almost the largest, yet every swap
that helps a rank shows. Squared four times: products are the same on every machine, powers need not be."""
SWAPS = 1000
ENOUGH = 1.01
"""Once no load is more of its mean than this, ranks are alike enough."""
SPLITS = 500
"""Two ranks divide their packs anew where there are at most so many ways to do it."""
GROUP = 16
"""Ranks that are balanced among themselves where there are more than `ALONE`: what swapping takes grows with the cube
of their number, and a step must be dealt sooner than it is trained."""
ALONE = 32
"""Ranks up to which all are balanced together."""
APART = 256
"""Ranks that are dealt to apart from all others where there are more: who works for one rank need not know what
thousands do."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Imbalance:
    """Most over mean, 1 or more, of each kind of cost: over the ranks of a step [d], and of each micro-step [m, d].
    A kind that nothing costs is in balance."""

    step: Costs
    micro: Costs


def balance(costs: npt.ArrayLike, ranks: int, per_rank: int | None = None) -> npt.NDArray[np.int64]:
    """Which pack each rank does in each micro-step: int64 [ranks, per_rank], -1 where a rank has none left.

    `costs` are those of the step's packs, [n] or [n, d] for d kinds (total, vision, ...), 0 or more; `per_rank` is
    ceil(n / ranks) unless given. Packs are dealt largest first (by their largest share of any kind) to the rank that
    then has the least to do (Graham's LPT rule), no rank getting more than `per_rank`, nor two fewer than another; then
    packs are swapped between ranks as long as that helps, and where ranks have few, the worst rank and another divide
    theirs anew. Of more than `ALONE` ranks, groups of about `GROUP` get their packs first, by the same rule, and their
    ranks share these as above; at last the worst of all ranks and another divide theirs. More than `APART` ranks are
    first parted by that rule into parts of at most so many, each of which is dealt to in this way. Each rank does its
    packs largest first, so that micro-steps are alike too. A pure function of the input; ties go to the lower rank and
    the earlier pack. Raises ValueError where the packs do not fit.

    >>> balance([9, 5, 4, 4, 3, 3], ranks=2).tolist()
    [[0, 4, 5], [1, 2, 3]]
    """
    relative, rows, full = _relative(costs, ranks, per_rank)
    rank_of = np.empty(len(relative), np.int64)
    firsts, part_of = _parts(relative, ranks, full, APART)
    for part, (first, end) in enumerate(pairwise(firsts.tolist())):
        members = np.flatnonzero(part_of == part)
        rank_of[members] = first + _together(relative[members], end - first, full)
    result = np.full((ranks, rows), -1, np.int64)
    for rank in range(ranks):
        mine = _sorted(relative, np.flatnonzero(rank_of == rank), costs)
        result[rank, : len(mine)] = mine
    return result


def balance_row(costs: npt.ArrayLike, ranks: int, rank: int) -> npt.NDArray[np.int64]:
    """`balance(costs, ranks)[rank]`, int64 [ceil(n / ranks)], for the work of dealing to its part of the ranks.

    >>> balance_row([9, 5, 4, 4, 3, 3], ranks=2, rank=1).tolist()
    [1, 2, 3]
    """
    relative, rows, full = _relative(costs, ranks, None)
    firsts, part_of = _parts(relative, ranks, full, APART)
    part = int(np.searchsorted(firsts, rank, side="right")) - 1
    members = np.flatnonzero(part_of == part)
    rank_of = firsts[part] + _together(relative[members], int(firsts[part + 1] - firsts[part]), full)
    result = np.full(rows, -1, np.int64)
    mine = _sorted(relative, members[rank_of == rank], costs)
    result[: len(mine)] = mine
    return result


def _relative(costs: npt.ArrayLike, ranks: int, per_rank: int | None) -> tuple[Costs, int, int]:
    """Costs as shares of a rank's mean, with dummies of no cost that make all ranks equally long, so that swaps also
    move packs; micro-steps of the answer; packs of each rank. Raises ValueError where the packs do not fit."""
    values = _table(costs)
    rows = -(-len(values) // ranks) if per_rank is None else per_rank
    if ranks < 1 or len(values) > ranks * rows:
        raise ValueError(f"{len(values)} packs are too many for {ranks} ranks of {rows}")
    mean = values.sum(0) / ranks
    relative = values[:, mean > 0] / mean[mean > 0]  # a load of 1 is a rank's fair share
    if not relative.shape[1]:
        relative = np.zeros((len(values), 1))
    full = -(-len(values) // ranks)
    return np.concatenate([relative, np.zeros((ranks * full - len(values), relative.shape[1]))]), rows, full


def _sorted(relative: Costs, mine: npt.NDArray[np.intp], costs: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """A rank's packs, largest first, without dummies."""
    mine = mine[mine < len(np.asarray(costs))]
    return mine[np.argsort(-relative[mine].sum(1), kind="stable")]


def imbalance(costs: npt.ArrayLike, deal: npt.NDArray[np.int64]) -> Imbalance:
    """How well `deal` (from `balance`: int64 [ranks, m], -1 for none) spreads `costs` ([n] or [n, d]) over ranks.

    >>> imbalance([9, 5, 4, 4, 3, 3], balance([9, 5, 4, 4, 3, 3], ranks=2)).step.round(3).tolist()
    [1.071]
    """
    values = np.concatenate([_table(costs), np.zeros((1, _table(costs).shape[1]))])
    table = values[deal]  # [ranks, m, d]; -1 is the last row, which costs nothing
    return Imbalance(step=_most_over_mean(table.sum(1)), micro=_most_over_mean(table))


def _most_over_mean(loads: Costs) -> Costs:
    mean = loads.mean(0)
    return np.where(mean > 0, loads.max(0) / np.where(mean > 0, mean, 1), 1.0)


def _table(costs: npt.ArrayLike) -> Costs:
    values = np.asarray(costs, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("costs are finite numbers of 0 or more, [n] or [n, d]")
    return values


def _even(relative: Costs, ranks: int, full: int) -> npt.NDArray[np.int64]:
    """The rank of each of ranks * full packs, all balanced together."""
    dealt = _dealt(relative, np.full(ranks, full))
    return _divided(relative, _swapped(relative, dealt, ranks), ranks, full)


def _together(relative: Costs, ranks: int, full: int) -> npt.NDArray[np.int64]:
    """The same in groups, where there are many: the worst of all divide their packs with others at last."""
    if ranks <= ALONE:
        return _even(relative, ranks, full)
    rank_of = np.empty(len(relative), np.int64)
    firsts, group_of = _parts(relative, ranks, full, GROUP)
    for group, (first, end) in enumerate(pairwise(firsts.tolist())):
        members = np.flatnonzero(group_of == group)
        rank_of[members] = first + _even(relative[members], end - first, full)
    return _divided(relative, rank_of, ranks, full)


def _parts(relative: Costs, ranks: int, full: int, most: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first rank of each part of at most so many ranks, and their end; the part of each pack: those of a part come
    to its share of all costs."""
    firsts = np.arange(-(-ranks // most) + 1) * ranks // -(-ranks // most)
    sizes = np.diff(firsts)
    if len(sizes) == 1:
        return firsts, np.zeros(len(relative), np.int64)
    return firsts, _dealt(relative, sizes * full, sizes.astype(np.float64))


def _dealt(relative: Costs, room: npt.NDArray[np.int64], shares: Costs | None = None) -> npt.NDArray[np.int64]:
    """To which of so many each pack goes that have room for so many packs, and a share each (1) of what packs cost."""
    count = len(room)
    parts = np.ones((count, 1)) if shares is None else shares[:, None]
    loads = np.zeros((count, relative.shape[1]))
    held = np.zeros(count, np.int64)
    rank_of = np.empty(len(relative), np.int64)
    for pack in np.lexsort((-relative.sum(1), -relative.max(1))).tolist():
        after = (loads + relative[pack]) / parts
        # The largest kind first; of ranks alike in that, the one with the least in all.
        worst = np.where(held < room, after.max(1) + 1e-6 * after.sum(1), np.inf)
        rank = int(np.argmin(worst))
        rank_of[pack] = rank
        loads[rank] += relative[pack]
        held[rank] += 1
    return rank_of


def _swapped(relative: Costs, rank_of: npt.NDArray[np.int64], ranks: int) -> npt.NDArray[np.int64]:
    """Swap packs of the worst rank with others as long as the objective falls; if no swap of the worst helps, try the
    next worst."""
    rank_of = rank_of.copy()
    for _ in range(SWAPS):
        loads: Costs = np.stack([np.bincount(rank_of, column, ranks) for column in relative.T], 1)
        now = _power(loads).sum(1)
        for worst in np.argsort(-now, kind="stable").tolist():
            mine, others = np.flatnonzero(rank_of == worst), np.flatnonzero(rank_of != worst)
            change = relative[others][None] - relative[mine][:, None]  # [mine, others, d]: what a swap adds to mine
            theirs = loads[rank_of[others]]
            then = _power(np.maximum(loads[worst] + change, 0)).sum(2)
            then += _power(np.maximum(theirs - change, 0)).sum(2)
            gain = now[worst] + now[rank_of[others]] - then
            best = int(np.argmax(gain)) if gain.size else 0
            if gain.size and gain.flat[best] > 1e-9 * now.sum():
                one, other = mine[best // len(others)], others[best % len(others)]
                rank_of[one], rank_of[other] = rank_of[other], rank_of[one]
                break
        else:
            break
    return rank_of


def _divided(relative: Costs, rank_of: npt.NDArray[np.int64], ranks: int, full: int) -> npt.NDArray[np.int64]:
    """Let the worst rank and whichever other gains most divide their packs in the best of all ways, `full` each, until
    loads are alike enough or nothing helps."""
    if ranks < 2 or full < 2 or (ways := math.comb(2 * full - 1, full - 1)) > SPLITS:
        return rank_of
    # The worst rank always keeps its first pack: the two ranks may as well be named the other way round.
    chosen = np.array([(0, *some) for some in combinations(range(1, 2 * full), full - 1)])
    kept = np.zeros((ways, 2 * full), bool)
    np.put_along_axis(kept, chosen, True, axis=1)
    members = np.argsort(rank_of, kind="stable").reshape(ranks, full)
    for _ in range(SWAPS):
        loads = relative[members].sum(1)
        if loads.max() <= ENOUGH:
            break
        now = _power(loads).sum(1)
        worst = int(np.argmax(now))
        others = np.flatnonzero(np.arange(ranks) != worst)
        both = np.concatenate([np.repeat(members[worst][None], len(others), 0), members[others]], 1)
        mine = np.zeros((len(others), ways, relative.shape[1]))
        for place in range(2 * full):  # one by one, so that every machine adds in the same order
            mine += kept[None, :, place, None] * relative[both[:, place]][:, None]
        theirs = (loads[worst] + loads[others])[:, None] - mine
        gain = (now[worst] + now[others])[:, None] - _power(mine).sum(2) - _power(np.maximum(theirs, 0)).sum(2)
        best = int(np.argmax(gain))
        if gain.flat[best] <= 1e-9 * now.sum():
            break
        other, way = divmod(best, ways)
        members[worst], members[others[other]] = both[other][kept[way]], both[other][~kept[way]]
    result = np.empty_like(rank_of)
    result[members] = np.arange(ranks)[:, None]
    return result


def _power(values: Costs) -> Costs:
    for _ in range(DOUBLINGS):
        values = values * values
    return values
