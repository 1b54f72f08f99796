"""Shuffle quality: against all permutations of few samples, and between the modes."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter

import numpy as np
import pytest

from mmdata.stream.order import Order, Shuffle
from mmdata.stream.quality import quality_of, shuffle_quality


def brute(order: list[int], rows: list[int], window: int) -> tuple[float, float, float]:
    """Mean displacement, share of neighbours from other shards, mean entropy of windows: from their definitions."""
    shard = [s for s, count in enumerate(rows) for _ in range(count)]
    moved = sum(abs(position - place) for place, position in enumerate(order)) / len(order)
    other = sum(shard[a] != shard[b] for a, b in itertools.pairwise(order)) / (len(order) - 1)
    entropies = []
    for start in range(0, len(order) - window + 1, window):
        counts = Counter(shard[position] for position in order[start : start + window])
        entropies.append(-sum(c / window * math.log(c / window) for c in counts.values()))
    return moved, other, sum(entropies) / len(entropies)


@pytest.mark.parametrize(("rows", "window"), [([3, 2, 2], 3), ([1, 1, 5], 2), ([4, 3], 7), ([6], 2)])
def test_chance_is_the_mean_over_all_permutations(rows: list[int], window: int) -> None:
    n = sum(rows)
    firsts = np.concatenate([[0], np.cumsum(rows)])
    every = np.array([brute(list(order), rows, window) for order in itertools.permutations(range(n))])
    by_chance = every.mean(0)
    order = [n - 1 - position for position in range(n)]
    order[0], order[1] = order[1], order[0]
    found = quality_of([np.array(order)], [np.arange(n)], firsts, window=window)
    expected = [
        min(1, value / mean) if mean else 1 for value, mean in zip(brute(order, rows, window), by_chance, strict=True)
    ]
    assert [found.displacement, found.neighbours, found.diversity] == pytest.approx(expected)


def order(shuffle: Shuffle, block_samples: int = 5000, seed: int = 0) -> Order:
    firsts = np.arange(0, 200_001, 500, dtype=np.int64)
    return Order(n=200_000, shuffle=shuffle, seed=seed, block_samples=block_samples, shard_firsts=firsts)


def test_modes_compare() -> None:
    scores = {shuffle: shuffle_quality(order(shuffle)).score for shuffle in ("none", "shard", "block", "global")}
    assert scores["none"] == 0
    assert scores["global"] > 0.97
    assert scores["none"] < scores["shard"] < scores["block"] < scores["global"]
    larger = shuffle_quality(order("block", 50_000))
    assert scores["block"] < larger.score < 1
    assert shuffle_quality(order("shard")).displacement > 0.9, "shards are far from where they lie"
    assert shuffle_quality(order("shard")).neighbours < 0.01


def test_without_shards_and_at_any_size() -> None:
    start = time.process_time()
    assert shuffle_quality(Order(n=10**9, shuffle="global", seed=0)).score > 0.97
    assert shuffle_quality(Order(n=10**9, shuffle="none", seed=0)).score == 0
    firsts = np.arange(10**6 + 1, dtype=np.int64) * 1000
    found = shuffle_quality(Order(n=10**9, shuffle="block", seed=0, shard_firsts=firsts))
    assert 0.2 < found.score < 0.6
    assert found.displacement > 0.8
    assert time.process_time() - start < 5


def test_nothing_to_shuffle_is_no_fault() -> None:
    assert shuffle_quality(Order(n=1, shuffle="global", seed=0)).score == 1
    assert shuffle_quality(Order(n=0, shuffle="global", seed=0)).score == 1
