"""Runs of equal lengths and the bins that placements of them amount to, by hand."""

from __future__ import annotations

import numpy as np

from mmdata.pack.events import Runs, assemble


def test_runs_are_longest_first_and_stable() -> None:
    runs = Runs.of(np.array([2, 5, 2, 7, 5, 2]), 10)
    assert runs.order.tolist() == [3, 1, 4, 0, 2, 5]
    assert (runs.lengths, runs.counts) == ([7, 5, 2], [1, 2, 3])


def test_items_are_used_up_in_order_and_lie_in_the_order_of_their_depth() -> None:
    runs = Runs.of(np.array([2, 5, 2, 7, 5, 2]), 10)
    events = [(1, 1, 1, 0, 2), (2, 0, 1, 1, 1), (0, 0, 1, 0, 1), (2, 2, 1, 0, 2)]
    assert assemble(runs, events, 3).tolist() == [[3, 0], [1, 4], [2, 5]]


def test_no_items_make_no_bins() -> None:
    runs = Runs.of(np.zeros(0, np.int64), 10)
    assert assemble(runs, [], 0).tolist() == []
