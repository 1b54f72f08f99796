"""From spec to mixer: limits, epochs, weights, orders of their own."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmdata.stream.draws import Draws
from mmdata.stream.spec import StreamSpec
from mmdata.stream.weighted import Head, mixer_of


class Shards:
    def __init__(self, rows: list[int]) -> None:
        self.shard_firsts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.shard_firsts[-1])


def ones(draws: Draws) -> np.ndarray:
    return np.ones(len(draws), np.int64)


def spec(*datasets: dict[str, Any], **fields: Any) -> StreamSpec:
    return StreamSpec.model_validate({"datasets": datasets, "block_samples": 40, "weigh_by": "samples", **fields})


@given(rows=st.lists(st.integers(1, 9), min_size=1, max_size=9), limit=st.integers(1, 90))
def test_a_head_has_the_first_samples(rows: list[int], limit: int) -> None:
    head = Head(Shards(rows), limit)
    kept = min(limit, sum(rows))
    shard_of = [shard for shard, count in enumerate(rows) for _ in range(count)][:kept]
    assert len(head) == kept
    assert np.diff(head.shard_firsts).tolist() == [shard_of.count(shard) for shard in range(shard_of[-1] + 1)]


def test_a_spec_becomes_a_mixer() -> None:
    made = mixer_of(
        [Shards([10] * 6), Shards([7, 7])],
        spec({"path": "/a", "weight": 3, "limit": 25}, {"path": "/b", "weight": 1, "epochs": 2}, shuffle="block"),
        controlled=lambda block: {"a": Fraction(1)} if block >= 1 else {},
    )
    assert made is not None
    first, cursors = made.block(made.first(), 0, ones)
    assert np.bincount(first.dataset).tolist() == [30, 10]
    assert first.position[first.dataset == 0].max() < 25
    second, cursors = made.block(cursors, 1, ones)
    assert np.bincount(second.dataset).tolist() == [22, 18], "from block 1 on both weigh alike, until b is spent"
    assert cursors[1].samples == 28
    third, _ = made.block(cursors, 2, ones)
    assert set(third.dataset.tolist()) == {0}


def test_datasets_of_like_size_come_in_orders_of_their_own() -> None:
    made = mixer_of([Shards([100])] * 2, spec({"path": "/a", "weight": 1}, {"path": "/b", "weight": 1}))
    assert made is not None
    draws, _ = made.block(made.first(), 0, ones)
    assert not np.array_equal(draws.position[draws.dataset == 0], draws.position[draws.dataset == 1])


def test_without_weights_there_is_no_mixer() -> None:
    assert mixer_of([Shards([5])], StreamSpec(dataset="/a")) is None
