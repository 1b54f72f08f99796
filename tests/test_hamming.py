"""Multi-index hashing against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import near_dup as benchmark
from mmdata import hamming
from mmdata.hamming import HammingIndex, pairs


def brute_pairs(hashes: list[int], radius: int) -> list[list[int]]:
    return [[i, j] for (i, a), (j, b) in combinations(enumerate(hashes), 2) if (a ^ b).bit_count() <= radius]


def brute_nearest(kept: list[tuple[int, int]], value: int, radius: int) -> tuple[int, int] | None:
    best = min((((value ^ other).bit_count(), id) for other, id in kept), default=None)
    return best if best is not None and best[0] <= radius else None


@pytest.fixture
def tabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables from the first hashes on, and segments after every 16: the machinery of millions, on hundreds."""
    monkeypatch.setattr(hamming, "BUFFER", 16)
    monkeypatch.setattr(hamming, "GROWTH", 3)
    monkeypatch.setattr(hamming, "SCAN", 1e9)
    monkeypatch.setattr(hamming, "LARGE", 64)
    hamming._plan.cache_clear()
    yield
    hamming._plan.cache_clear()


near = st.builds(
    lambda centre, flips: centre ^ sum({1 << bit for bit in flips}),
    st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF, 0xFFFF0000FFFF0000]),
    st.lists(st.integers(0, 63), max_size=12),
)
hash_lists = st.lists(near | st.integers(0, 2**64 - 1), max_size=120)


@pytest.mark.usefixtures("tabled")
@settings(max_examples=60, deadline=None)
@given(hash_lists, st.integers(0, 16))
def test_pairs_by_table(hashes: list[int], radius: int) -> None:
    assert pairs(np.array(hashes, dtype=np.uint64), radius).tolist() == brute_pairs(hashes, radius)


@pytest.mark.usefixtures("tabled")
@settings(max_examples=60, deadline=None)
@given(hash_lists, hash_lists, st.integers(0, 16))
def test_nearest_by_table(hashes: list[int], queries: list[int], radius: int) -> None:
    index = HammingIndex(radius=radius)
    kept: list[tuple[int, int]] = []
    for id, value in enumerate(hashes):
        assert index.nearest(value) == brute_nearest(kept, value, radius)
        index.add(value, id)
        kept.append((value, id))
    for value in queries:
        assert index.nearest(value) == brute_nearest(kept, value, radius)


@pytest.mark.usefixtures("tabled")
@settings(max_examples=60, deadline=None)
@given(hash_lists, st.integers(0, 16), st.integers(1, 40))
def test_what_was_expected_is_found_with_what_came_since(hashes: list[int], radius: int, ahead: int) -> None:
    """Blocks that fit the buffer and some that do not; hashes that are kept only if none is near, as in a build."""
    index = HammingIndex(radius=radius)
    kept: list[tuple[int, int]] = []
    for number, value in enumerate(hashes):
        if number % ahead == 0:
            index.expect(hashes[number : number + ahead])
        assert index.nearest(value) == brute_nearest(kept, value, radius)
        if number % 3 == 0 or brute_nearest(kept, value, radius) is None:
            index.add(value, 1000 - number)
            kept.append((value, 1000 - number))


@pytest.mark.usefixtures("tabled")
@pytest.mark.parametrize("radius", [0, 1, 6, 11, 63])
def test_an_exact_match_takes_the_smallest_id(radius: int) -> None:
    index = HammingIndex(radius=radius)
    for id in range(200, 0, -1):
        index.add(5, id)
    assert index.nearest(5) == (0, 1)


@pytest.mark.parametrize("count", range(3, 9))
@pytest.mark.parametrize("radius", range(17))
def test_pigeonhole(count: int, radius: int) -> None:
    """However `radius` flips fall on the chunks, one chunk holds no more than is searched there: checked on the worst
    case, which is to put one flip too many into chunk after chunk until they run out."""
    radii = hamming._radii(count, radius)
    assert sum(r + 1 for r in radii) == radius + 1


def test_real_sizes_on_clumps() -> None:
    """With the sizes that a build has, several segments and tables of each width; found by a scan of everything."""
    hashes = benchmark.clumpy(40_000, spread=8)
    index = HammingIndex(radius=6)
    for id, value in enumerate(hashes.tolist()):
        index.add(value, id)
    for value in [*hashes[::400].tolist(), *benchmark.clumpy(100, spread=8, seed=9).tolist()]:
        distances = np.bitwise_count(hashes ^ np.uint64(value))
        best = int(distances.min())
        assert index.nearest(value) == ((best, int(distances.argmin())) if best <= 6 else None)


@pytest.mark.parametrize("radius", [0, 3, 6, 9])
def test_pairs_on_clumps(radius: int) -> None:
    hashes = benchmark.clumpy(3_000, spread=7, seed=3)
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= radius
    assert np.array_equal(pairs(hashes, radius), np.argwhere(np.triu(near, 1)))


def test_blocks_of_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "BLOCK", 1024)
    hashes = benchmark.clumpy(1_500, spread=7, seed=4)
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= 6
    assert np.array_equal(pairs(hashes, 6), np.argwhere(np.triu(near, 1)))


def test_nothing_and_one() -> None:
    assert pairs(np.array([], dtype=np.uint64), 3).shape == (0, 2)
    assert pairs(np.array([1], dtype=np.uint64), 3).shape == (0, 2)
    assert HammingIndex(radius=3).nearest(1) is None


@pytest.mark.parametrize(("bits", "radius"), [(32, 3), (64, -1), (64, 64)])
def test_what_is_not_supported(bits: int, radius: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        HammingIndex(bits, radius=radius)


def test_candidates_grow_slower_than_the_index() -> None:
    """The work that is counted, not the clock: hashes measured per query, at ten times the size."""

    def measured(count: int) -> float:
        hashes = np.unique(benchmark.clumpy(count, spread=10))
        segment = hamming._Segment(hashes, np.arange(len(hashes)), 6)
        lengths = segment.ranges(hashes[:: len(hashes) // 500])[2]
        return lengths.sum() / len(hashes[:: len(hashes) // 500])

    small, large = measured(30_000), measured(300_000)
    assert large < 4 * small
    assert large < 3_000


def test_the_benchmark_compares_with_a_scan() -> None:
    assert 0 < benchmark.against_a_scan(benchmark.clumpy(2_500, spread=10), 6) < 2_500
    hashes = benchmark.clumpy(1_200, spread=10)
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= 6
    assert benchmark.every_pair(hashes, 6) == np.triu(near, 1).sum() > 0
