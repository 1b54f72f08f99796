"""The search of a segment by the kernel beside numpy's of the same tables, and beside a scan of all its hashes."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from mmdata import hamming
from mmdata.native import library, near

pytestmark = pytest.mark.skipif(library.kernels() is None, reason="the kernels were not compiled")


def clumpy(count: int, clumps: int, seed: int) -> np.ndarray:
    """Hashes that differ from one of a few in up to eight bits: entries of tables with one hash, and with thousands."""
    random = np.random.default_rng(seed)
    flips = np.uint64(1) << random.integers(0, 64, (count, 8), np.uint64)
    flipped = np.bitwise_xor.reduce(np.where(random.random((count, 8)) < 0.5, flips, np.uint64(0)), axis=1)
    return random.integers(0, 1 << 63, clumps, np.uint64)[random.integers(0, clumps, count)] ^ flipped


@settings(max_examples=40, deadline=None)
@given(
    count=st.sampled_from([300, 2_000, 9_000]),
    clumps=st.sampled_from([1, 7, 100_000]),
    radius=st.integers(0, 10),
    seed=st.integers(0, 99),
    level=st.sampled_from([0, library.AVX2, library.AVX512]),
)
@example(count=60_000, clumps=3, radius=6, seed=0, level=library.AVX512)
@example(count=60_000, clumps=60_000, radius=6, seed=0, level=library.AVX512)
def test_as_numpy_and_as_a_scan(count, clumps, radius, seed, level) -> None:  # type: ignore[no-untyped-def]
    hashes = clumpy(count, clumps, seed)
    ids = np.random.default_rng(seed).permutation(count)
    queries = np.concatenate([hashes[:40], clumpy(40, clumps, seed), clumpy(40, 1, seed + 1)])
    segment = hamming._Segment(hashes, ids, radius)
    expected = hamming._scan(segment.hashes, segment.ids, queries, radius)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "level", lambda: min(level, library.level()))
        found = segment.nearest(queries, radius)
    segment._kernel = None
    for one, by_numpy, scanned in zip(found, segment.nearest(queries, radius), expected, strict=True):
        near_enough = expected[0] <= radius
        assert np.array_equal(one, by_numpy)
        assert np.array_equal(one[near_enough], scanned[near_enough])
    assert np.array_equal(found[0], expected[0])


def test_what_is_no_segment_is_refused() -> None:
    arrays = {
        name: np.zeros((4, 2) if name == "prints" else 4, near._KINDS.get(name, np.uint64)) for name in near._FIELDS
    }
    near.Searched(**arrays)
    with pytest.raises(ValueError, match="prints is uint64"):
        near.Searched(**{**arrays, "prints": arrays["prints"].astype(np.uint64)})
    with pytest.raises(ValueError, match="4 entries of 3 starts"):
        near.Searched(**{**arrays, "starts": arrays["starts"][:3]})
    with pytest.raises(ValueError, match="queries are u64"):
        near.Searched(**arrays).nearest(*(np.zeros(1, np.int64),) * 2, 3, *(np.zeros(1, np.int64),) * 2)
