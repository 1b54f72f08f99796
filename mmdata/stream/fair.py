"""Fair turns: whose sample comes next so that each has had its share, to within one sample, at every moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from heapq import heapify, heappop, heappush

PARTS = 1_000_000_000
"""Weights are whole parts of this many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """What came of `turns`."""

    order: list[int]
    """Whose turn it was, one after the other."""
    lags: tuple[int, ...]
    """What each is behind (or, negative, ahead of) its share afterwards, in amount times the sum of weights."""
    wanted: int | None
    """Who is to come next and has nothing to give; None where there were turns enough."""


def turns(weights: Sequence[int], lags: Sequence[int], amounts: Sequence[Sequence[int]], count: int) -> Turns:
    """Up to `count` turns of D queues, `amounts[d]` being what the samples of queue d come to, in their order.

    Earliest eligible virtual deadline first (Stoica and Abdel-Wahab 1995): a sample is eligible once its queue is not
    ahead of its share, and of the eligible ones that comes first which, served at its share, would be done first. No
    queue is ever further ahead than its own largest sample, nor further behind than the largest of all (their
    theorem 1), whatever D. Integers of any size: nothing is rounded where it adds up. Queues of weight 0 never have a
    turn.

    >>> turns([2, 1], [0, 0], [[1] * 6, [1] * 6], 6).order
    [0, 1, 0, 0, 1, 0]
    >>> turns([1, 1], [0, 0], [[30] * 2, [10] * 6], 6)
    Turns(order=[1, 0, 1, 1, 1, 0], lags=(-20, 20), wanted=None)
    """
    total = sum(weights)
    given, at, passed = [0] * len(weights), [0] * len(weights), 0
    # When each queue's next sample becomes eligible: the least amount in all at which the queue is not ahead.
    waiting = [(-(lag // weight), d) for d, (lag, weight) in enumerate(zip(lags, weights, strict=True)) if weight]
    heapify(waiting)
    ready: list[tuple[int, int]] = []
    order: list[int] = []
    wanted = None
    while len(order) < count and waiting:
        while waiting and (waiting[0][0] <= passed or not ready):
            d = waiting[0][1]
            if at[d] == len(amounts[d]):
                wanted = d
                break
            heappop(waiting)
            done = total * (given[d] + amounts[d][at[d]]) - lags[d]
            heappush(ready, ((done << 16) // weights[d], d))
        if wanted is not None:
            break
        d = heappop(ready)[1]
        amount = amounts[d][at[d]]
        order.append(d)
        given[d] += amount
        passed += amount
        at[d] += 1
        heappush(waiting, ((total * given[d] - lags[d] + weights[d] - 1) // weights[d], d))
    after = tuple(lag + w * passed - total * each for lag, w, each in zip(lags, weights, given, strict=True))
    return Turns(order=order, lags=after, wanted=wanted)


def parts(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Weights as whole parts that add up to `PARTS` (none at all where all weights are zero): by largest remainder,
    the first of equal ones. What has a weight has one part at least.

    >>> parts([Fraction(1), Fraction(2), Fraction(0)])
    (333333333, 666666667, 0)
    """
    total = sum(weights)
    if not total:
        return (0,) * len(weights)
    exact = [weight * PARTS / total for weight in weights]
    whole = [max(int(each), 1 if each else 0) for each in exact]
    by_remainder = sorted(range(len(whole)), key=lambda d: (whole[d] - exact[d], d))
    for d in by_remainder[: max(0, PARTS - sum(whole))]:
        whole[d] += 1
    largest = max(range(len(whole)), key=lambda d: whole[d])
    whole[largest] -= sum(whole) - PARTS
    return tuple(whole)


def handed_over(lags: Sequence[int], weights: Sequence[int]) -> tuple[int, ...]:
    """Lags after those of weight 0 have left: what they were behind or ahead falls to the others by their weights, so
    that lags still add up to zero.

    >>> handed_over([-5, 2, 3], [1, 1, 0])
    (-3, 3, 0)
    """
    left = sum(lag for lag, weight in zip(lags, weights, strict=True) if not weight)
    total = sum(weights)
    result = [lag + left * weight // total if weight else 0 for lag, weight in zip(lags, weights, strict=True)]
    for d, weight in enumerate(weights):
        if weight:
            result[d] += sum(lags) - sum(result)
            break
    return tuple(result)
