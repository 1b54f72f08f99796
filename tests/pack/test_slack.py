"""The search for full bins: a packing whatever its bounds, and better than best fit where that can be."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.pack import pack
from mmdata.pack.events import Runs, assemble
from mmdata.pack.slack import minimum_slack
from tests.pack.naive import Case, cases, is_packing


@settings(deadline=None)
@given(cases, st.integers(0, 30), st.integers(0, 300))
def test_the_search_packs_whatever_its_bounds(case: Case, enough: int, steps: int) -> None:
    lengths, capacity = case
    runs = Runs.of(np.array(lengths, np.int64), capacity)
    bins = assemble(runs, *minimum_slack(runs, capacity, enough=enough, steps=steps)).tolist()
    assert is_packing(bins, lengths, capacity)


def test_finds_what_best_fit_misses() -> None:
    lengths = [50, 31, 29, 26, 24, 21, 19] * 10  # 50 + 31 + 19 and 29 + 26 + 24 + 21: 20 full bins
    assert len(pack(lengths, 100, "best_fit_decreasing")) > len(pack(lengths, 100)) == 20


def test_without_steps_it_is_first_fit_decreasing() -> None:
    lengths = np.random.default_rng(0).integers(1, 500, 400)
    runs = Runs.of(lengths, 1000)
    found = assemble(runs, *minimum_slack(runs, 1000, steps=0))
    assert found.tolist() == pack(lengths, 1000, "first_fit_decreasing").tolist()
