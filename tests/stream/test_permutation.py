"""The keyed permutation: a bijection with an inverse, the same everywhere, and shuffled."""

from __future__ import annotations

import crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.stream.permutation import permute, place_of, round_keys


def permutation(n: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return permute(np.arange(n), n, round_keys("order", seed, epoch))


@pytest.mark.parametrize("n", [*range(1, 70), 255, 256, 257, 1000, 4096, 10_007, 100_000])
def test_a_bijection(n: int) -> None:
    assert np.array_equal(np.sort(permutation(n)), np.arange(n))


@given(n=st.integers(1, 2**62), seed=st.integers(0, 5), where=st.lists(st.floats(0, 1, exclude_max=True), max_size=20))
def test_the_inverse_leads_back(n: int, seed: int, where: list[float]) -> None:
    places = np.array([min(n - 1, int(at * n)) for at in where], np.int64)
    keys = round_keys("order", seed, 0)
    values = permute(places, n, keys)
    assert ((values >= 0) & (values < n)).all()
    assert np.array_equal(place_of(values, n, keys), places)


def test_any_place_alone() -> None:
    whole = permutation(1000, seed=3, epoch=5)
    keys = round_keys("order", 3, 5)
    alone = [int(permute(np.array([at]), 1000, keys)[0]) for at in range(0, 1000, 37)]
    assert alone == whole[::37].tolist()


def test_pinned() -> None:
    """A changed order would resume every saved run into another one."""
    assert permutation(10, seed=1).tolist() == [5, 2, 8, 4, 1, 3, 0, 6, 7, 9]


@pytest.mark.parametrize(
    ("n", "count", "expected"), [(20_000, 20_000, 249031725), (10**9, 1000, 2910376371), (2**40, 5, 2388955673)]
)
def test_pinned_by_every_way_to_compute_it(n: int, count: int, expected: int) -> None:
    """By tables of halves, by arrays, and by Python's integers."""
    assert crc32c.crc32c(permute(np.arange(count), n, round_keys("order", 1, 0)).tobytes()) == expected


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
