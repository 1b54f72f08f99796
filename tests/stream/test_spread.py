"""Spreading: every prefix and every step near the mean, exact, quick, and not the dull packs first."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.stream.spread import WINDOW, spread


def deviation(shares: np.ndarray, order: np.ndarray) -> np.ndarray:
    """How far the sums of each prefix are from so many mean packs, in mean packs: [P]."""
    sums = np.cumsum(shares[order], 0)
    wanted = np.arange(1, len(order) + 1)[:, None] * shares.mean(0)
    return (np.abs(sums - wanted) / shares.mean(0)).max(1)


def mixture(packs: int, kinds: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.dirichlet([0.3] * kinds, packs) * 8192).astype(np.int64)


@given(st.lists(st.lists(st.integers(0, 10**9), min_size=2, max_size=2), max_size=40))
def test_an_order_of_all(shares: list[list[int]]) -> None:
    order = spread(np.array(shares, np.int64).reshape(-1, 2))
    assert sorted(order.tolist()) == list(range(len(shares)))


@settings(deadline=None, max_examples=50)
@given(shares=st.lists(st.lists(st.integers(0, 50), min_size=2, max_size=2), min_size=2, max_size=8))
def test_each_next_is_the_best_of_all(shares: list[list[int]]) -> None:
    """A brute-force twin in whole numbers: up to `WINDOW` packs, all may be chosen."""
    values = np.array(shares, np.int64)
    distances = values * len(values) - values.sum(0)
    deviations = np.abs(distances).sum(0) // len(values)
    scaled = np.rint(distances[:, deviations > 0] / deviations[deviations > 0] * 4096).astype(int).tolist()
    left, sums, expected = list(range(len(values))), [0] * len(scaled[0]), []
    while left and scaled[0]:
        best = min(left, key=lambda i: (sum((s + x) ** 2 for s, x in zip(sums, scaled[i], strict=True)), i))
        left.remove(best)
        sums = [s + x for s, x in zip(sums, scaled[best], strict=True)]
        expected.append(best)
    assert spread(values).tolist() == (expected or list(range(len(values))))


def test_prefixes_are_an_order_of_magnitude_nearer_than_by_chance() -> None:
    shares = mixture(3000, 8)
    chance = deviation(shares, np.random.default_rng(1).permutation(3000)).max()
    assert deviation(shares, spread(shares)).max() < chance / 8


def test_windows_are_near_the_mean_too() -> None:
    rng = np.random.default_rng(2)
    vision = ((rng.random(3000) < 0.7) * rng.integers(1000, 6000, 3000))[:, None]
    steps = vision[spread(vision)].reshape(-1, 30).sum(1)
    by_chance = vision.reshape(-1, 30).sum(1)
    assert steps.std() < by_chance.std() / 5


def test_extreme_packs_do_not_wait_for_the_end() -> None:
    shares = mixture(3000, 8)
    extreme = ((shares - shares.mean(0)) ** 2).sum(1)
    order = spread(shares)
    first = extreme[order[:300]].mean() / extreme.mean()
    assert first > 0.6
    assert (extreme[order[300:2700]].mean() / extreme.mean()) == pytest.approx(1, abs=0.06)


def test_what_all_have_alike_decides_nothing() -> None:
    assert spread(np.full((5, 3), 7)).tolist() == [0, 1, 2, 3, 4]
    assert spread(np.zeros((0, 3), np.int64)).tolist() == []


def test_units_do_not_matter() -> None:
    shares = mixture(500, 3)
    assert np.array_equal(spread(shares), spread(shares * np.array([1, 1000, 100_000])))


def test_quick() -> None:
    shares = mixture(3000, 8)
    times = []
    for _ in range(3):
        start = time.process_time()
        spread(shares)
        times.append(time.process_time() - start)
    assert min(times) < 0.15
    assert WINDOW < 3000
