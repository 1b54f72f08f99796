"""Dealing packs to ranks: every pack once, in balance, against the optimum of small cases and against chance."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import _lengths
from mmdata.pack import balance, balance_row, imbalance, pack
from mmdata.pack import ranks as dealing

costs = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=24)


@settings(deadline=None)
@given(costs, st.integers(1, 8), st.integers(0, 2))
def test_every_pack_goes_to_one_rank_and_ranks_are_even(table: list[tuple[int, int]], ranks: int, spare: int) -> None:
    values = np.array(table, float).reshape(-1, 2)
    full = -(-len(values) // ranks)
    deal = balance(values, ranks, full + spare)
    assert deal.shape == (ranks, full + spare)
    assert sorted(deal[deal >= 0].tolist()) == list(range(len(values)))
    assert (deal[:, full:] == -1).all()
    for row in deal.tolist():  # what a rank lacks, it lacks at the end
        assert row == [p for p in row if p >= 0] + [-1] * row.count(-1)
    assert (balance(values, ranks, full + spare) == deal).all()


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=6, max_size=6))
def test_close_to_the_best_of_all_deals(values: list[int]) -> None:
    best = min(
        max(sum(values[i] for i in some), sum(values) - sum(values[i] for i in some))
        for some in itertools.combinations(range(6), 3)
    )
    found = max(sum(values[i] for i in row) for row in balance(values, 2).tolist())
    assert best <= found <= best * 1.1


def test_the_scale_of_a_cost_does_not_matter() -> None:
    values = np.random.default_rng(0).random((32, 2))
    assert (balance(values, 8) == balance(values * [1e12, 1e-6], 8)).all()


@pytest.mark.parametrize("seed", range(3))
def test_ranks_of_a_mixed_step_are_in_balance(seed: int) -> None:
    """70 of 100 samples with images, 8 ranks, 4 packs a rank and step: both costs within 5 % of the mean."""
    text, tiles, size = _lengths.parts("anyres729", 10_000, seed)
    tokens = np.minimum(text + tiles * size, 8192)
    bins = pack(tokens, 8192)
    vision = bins.loads(tiles * size)
    total = bins.loads(tokens) * 1.0 + bins.loads(tokens**2) / 8192 + 0.5 * vision
    table = np.stack([total, vision], 1)[np.random.default_rng(seed).permutation(len(bins))]
    dealt, chance = [], []
    for start in range(0, len(table) - 31, 32):
        step = table[start : start + 32]
        dealt.append(imbalance(step, balance(step, 8)).step)
        chance.append(imbalance(step, np.arange(32).reshape(8, 4)).step)
    assert np.max(dealt, 0).max() <= 1.05
    assert np.mean(chance, 0)[1] > np.mean(dealt, 0)[1]


def test_imbalance_by_hand() -> None:
    found = imbalance([[6, 1], [2, 1], [4, 0], [4, 0]], np.array([[0, 1], [2, 3]]))
    assert found.step.tolist() == [1, 2]
    assert found.micro.tolist() == [[1.2, 2], [4 / 3, 2]]
    assert imbalance([3, 0], np.array([[0], [1]])).step.tolist() == [2]
    assert imbalance([0, 0], np.array([[0], [1]])).step.tolist() == [1]


def test_more_packs_than_places_and_costs_below_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        balance([1, 2, 3], 1, 2)
    with pytest.raises(ValueError, match="costs"):
        balance([-1.0], 1)
    with pytest.raises(ValueError, match="costs"):
        balance([float("nan")], 1)


@settings(deadline=None, max_examples=25)
@given(st.integers(33, 100), st.integers(0, 300), st.integers(0, 5))
def test_many_ranks_are_dealt_in_groups_under_the_same_rules(ranks: int, packs: int, seed: int) -> None:
    values = np.random.default_rng(seed).gamma(2.0, 50.0, (packs, 2))
    full = -(-packs // ranks)
    deal = balance(values, ranks)
    assert deal.shape == (ranks, full)
    assert sorted(deal[deal >= 0].tolist()) == list(range(packs))
    assert (balance(values, ranks) == deal).all()


def test_groups_are_as_even_as_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).gamma(4.0, 400.0, (192, 2))
    grouped = imbalance(values, balance(values, 48)).step
    monkeypatch.setattr(dealing, "ALONE", 48)
    assert (grouped <= imbalance(values, balance(values, 48)).step + 0.02).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 40), st.integers(0, 120), st.integers(0, 5), st.integers(0, 39))
def test_a_rank_finds_its_row_alone(ranks: int, packs: int, seed: int, rank: int) -> None:
    """As it does in groups, which begin with few ranks here."""
    values = np.random.default_rng(seed).gamma(2.0, 50.0, (packs, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "ALONE", 6)
        patch.setattr(dealing, "GROUP", 4)
        patch.setattr(dealing, "APART", 16)
        rows = balance(values, ranks)
        assert sorted(rows[rows >= 0].tolist()) == list(range(packs))
        assert (balance_row(values, ranks, rank % ranks) == rows[rank % ranks]).all()


def test_thousands_of_ranks_are_even_and_each_deals_its_own_at_once() -> None:
    """All balanced together, 256 ranks of two packs took 8 s; in parts a rank does the work of its own part."""
    values = np.random.default_rng(0).gamma(4.0, 400.0, (2048, 2))
    began = time.process_time()
    deal = balance(values, 512)
    whole = time.process_time() - began
    began = time.process_time()
    assert (balance_row(values, 512, 77) == deal[77]).all()
    assert time.process_time() - began < 0.8 * whole < 8
    assert (imbalance(values, deal).step < 1.05).all()
