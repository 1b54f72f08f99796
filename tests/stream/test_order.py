"""The keyed permutation: a bijection, the same everywhere, and shuffled."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from mmdata.stream.order import order


def permutation(n: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return order(np.arange(n), n, shuffle="global", seed=seed, epoch=epoch)


@pytest.mark.parametrize("n", [*range(1, 70), 255, 256, 257, 1000, 4096, 10_007, 100_000])
def test_a_bijection(n: int) -> None:
    assert np.array_equal(np.sort(permutation(n)), np.arange(n))


def test_any_place_alone() -> None:
    whole = permutation(1000, seed=3, epoch=5)
    alone = [int(order(np.array([at]), 1000, shuffle="global", seed=3, epoch=5)[0]) for at in range(0, 1000, 37)]
    assert alone == whole[::37].tolist()


def test_pinned() -> None:
    """A changed order would resume every saved run into another one."""
    assert permutation(10, seed=1).tolist() == [5, 2, 8, 4, 1, 3, 0, 6, 7, 9]


def test_none_is_the_order_of_the_dataset() -> None:
    assert order(np.array([5, 2]), 9, shuffle="none", seed=1, epoch=1).tolist() == [5, 2]


def test_every_value_at_every_place_equally_often() -> None:
    """Chi-square of value by place over 1,500 keys: mean 121, standard deviation 15.6."""
    n, keys = 12, 1500
    counts = np.zeros((n, n))
    for seed in range(keys):
        counts[np.arange(n), permutation(n, seed)] += 1
    expected = keys / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 60 < chi_square < 190


def test_neighbours_part() -> None:
    n = 100_000
    for seed in range(3):
        places = permutation(n, seed)
        assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.02
        assert abs(np.corrcoef(places, np.arange(n))[0, 1]) < 0.02
        assert (np.abs(np.diff(places)) == 1).mean() < 1e-3


def test_a_billion_samples_take_no_memory() -> None:
    tracemalloc.start()
    start = time.perf_counter()
    found = order(np.arange(999_990_000, 1_000_000_000), 1_000_000_000, shuffle="global", seed=0, epoch=0)
    assert time.perf_counter() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert len(np.unique(found)) == 10_000
