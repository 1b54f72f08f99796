"""Packing under several capacities, against a naive check and the single capacity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.pack import pack, pack_vectors, vector_bound

LIMITS = (50, 20, 3)
items = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20), st.integers(0, 3)), max_size=60)


@settings(deadline=None)
@given(items)
def test_no_capacity_is_exceeded_and_nothing_is_lost(sizes: list[tuple[int, int, int]]) -> None:
    bins = pack_vectors(sizes, LIMITS)
    members = bins.tolist()
    assert sorted(i for some in members for i in some) == list(range(len(sizes)))
    for some in members:
        assert some
        assert all(sum(sizes[i][d] for i in some) <= LIMITS[d] for d in range(3))
    assert vector_bound(sizes, LIMITS) <= len(bins)
    assert members == pack_vectors(np.array(sizes, np.int64).reshape(-1, 3), LIMITS).tolist()


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=60))
def test_one_capacity_is_plain_packing(lengths: list[int]) -> None:
    sizes = [[length] for length in lengths]
    assert pack_vectors(sizes, [50]).tolist() == pack(lengths, 50).tolist()


def test_a_capacity_that_never_binds_costs_nothing() -> None:
    random = np.random.default_rng(0)
    sizes = np.stack([random.integers(1, 4000, 500), random.integers(0, 5, 500)], 1)
    assert pack_vectors(sizes, [8192, 10_000]).tolist() == pack(sizes[:, 0], 8192).tolist()


def test_media_are_spread_when_they_are_the_scarce_thing() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 5, 2000)
    sizes = np.stack([random.integers(50, 400, 2000) + 144 * images, images], 1)
    bins = pack_vectors(sizes, [8192, 20])  # tokens alone would put some 37 images in a row
    bound = vector_bound(sizes, [8192, 20])
    assert len(pack(sizes[:, 0], 8192)) < bound <= len(bins) <= bound * 1.02
    assert bins.loads(sizes)[:, 1].max() <= 20


def test_what_fits_nowhere_is_named() -> None:
    with pytest.raises(ValueError, match=r"item 1 of sizes \[3, 5\]"):
        pack_vectors([[1, 1], [3, 5]], [10, 4])
