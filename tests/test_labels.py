"""mmdata.labels against loops over single tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.labels import IGNORE, cu_seqlens, dense_mask, labels, positions, segment_ids
from mmdata.types import Span

segments = st.lists(st.integers(1, 7), min_size=1, max_size=6)


@given(segments)
def test_borders_positions_and_mask(lengths: list[int]) -> None:
    tokens = [(segment, position) for segment, length in enumerate(lengths) for position in range(length)]
    cu = cu_seqlens(lengths)
    assert (cu.dtype, positions(cu).dtype, segment_ids(cu).dtype) == (np.int32, np.int64, np.int32)
    assert cu[0] == 0
    assert cu[-1] == len(tokens)
    assert [*zip(segment_ids(cu).tolist(), positions(cu).tolist(), strict=True)] == tokens
    expected = [[a[0] == b[0] and b[1] <= a[1] for b in tokens] for a in tokens]
    assert dense_mask(cu).tolist() == expected


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_only_spans_are_trained_and_never_a_first_token(case: tuple[int, int, int]) -> None:
    n, a, b = case
    start, stop = sorted((a, b))
    ids = np.arange(100, 100 + n)
    values, weights = labels(ids, [Span(start, stop, 0.5)])
    for at in range(n):
        trained = start <= at < stop and at > 0
        assert values[at] == (ids[at] if trained else IGNORE)
        assert weights[at] == (0.5 if trained else 0)


def test_a_span_outside_its_segment_is_a_bug() -> None:
    with pytest.raises(ValueError, match="lies outside"):
        labels(np.arange(3), [Span(1, 4)])
