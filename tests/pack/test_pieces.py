"""Documents cut into pieces, against token-by-token truth."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.pack import concat_then_split, cut, pack

documents = st.lists(st.integers(0, 40), max_size=30)


@settings(deadline=None)
@given(documents, st.integers(1, 17))
def test_rows_are_the_tokens_of_all_documents_in_order(lengths: list[int], capacity: int) -> None:
    stream = [(item, token) for item, length in enumerate(lengths) for token in range(length)]
    pieces, bins = concat_then_split(lengths, capacity)
    table = pieces.tolist()
    rows = [[(table[p][0], t) for p in members for t in range(*table[p][1:])] for members in bins.tolist()]
    assert rows == [stream[at : at + capacity] for at in range(0, len(stream), capacity)]
    assert (pieces.lengths > 0).all()


@settings(deadline=None)
@given(documents, st.integers(1, 17))
def test_a_document_is_cut_only_where_it_must_be(lengths: list[int], capacity: int) -> None:
    pieces = cut(lengths, capacity)
    expected = [
        (item, at, min(at + capacity, length))
        for item, length in enumerate(lengths)
        for at in range(0, length, capacity)
    ]
    assert pieces.tolist() == expected
    if len(pieces):
        pack(pieces.lengths, capacity)


def test_documents_of_less_than_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="documents"):
        cut([-1], 8)
    with pytest.raises(ValueError, match="documents"):
        concat_then_split([1], 0)
