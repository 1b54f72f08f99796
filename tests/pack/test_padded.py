"""Batches of like length: their limits, and what they pad."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.pack import length_batches, padded_efficiency

lengths_of_batches = st.lists(st.integers(1, 50), max_size=50)


@settings(deadline=None)
@given(lengths_of_batches, st.integers(1, 8), st.integers(64, 300), st.sampled_from([1, 8]), st.integers(1, 60))
def test_padded_batches_keep_their_limits(
    lengths: list[int], rows: int, max_tokens: int, multiple: int, window: int
) -> None:
    bins = length_batches(lengths, rows=rows, max_tokens=max_tokens, multiple=multiple, window=window)
    members = bins.tolist()
    assert sorted(i for some in members for i in some) == list(range(len(lengths)))
    cells = 0
    for some in members:
        longest = -(-max(lengths[i] for i in some) // multiple) * multiple
        assert 1 <= len(some) <= rows
        assert longest * len(some) <= max_tokens
        assert len({i // window for i in some}) == 1
        cells += longest * len(some)
    assert padded_efficiency(bins, lengths, multiple) == pytest.approx(sum(lengths) / cells if cells else 1)


def test_batches_of_like_length_pad_little() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 1, 10_000).astype(int) + 1
    shuffled = padded_efficiency([list(range(at, at + 16)) for at in range(0, 10_000, 16)], lengths)
    assert padded_efficiency(length_batches(lengths, rows=16), lengths) > 0.98 > 0.5 > shuffled
    assert padded_efficiency(length_batches(lengths, rows=16, window=1600), lengths) > 0.9


def test_equal_lengths_come_in_order() -> None:
    assert length_batches([5, 5, 5, 5, 5], rows=2).tolist() == [[0, 1], [2, 3], [4]]


def test_batches_without_a_limit_or_with_one_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="limit"):
        length_batches([1])
    with pytest.raises(ValueError, match="can be packed"):
        length_batches([1, 9], max_tokens=8)
