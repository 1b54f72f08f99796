"""Orders: every epoch a permutation, blocks disjoint and alike whoever asks, few shards open, little in memory."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import SpecError
from mmdata.stream.order import Order, Place, Shuffle

SHUFFLES: list[Shuffle] = ["none", "shard", "block", "global"]

shapes = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def order(rows: list[int], shuffle: Shuffle = "block", block_samples: int = 20, seed: int = 0) -> Order:
    firsts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    return Order(n=sum(rows), shuffle=shuffle, seed=seed, block_samples=block_samples, shard_firsts=firsts)


def epoch_of(made: Order, epoch: int) -> np.ndarray:
    return np.concatenate([made.block(epoch, number) for number in range(made.blocks)])


@settings(max_examples=60, deadline=None)
@given(
    rows=shapes, shuffle=st.sampled_from(SHUFFLES), block=st.integers(1, 200), seed=st.integers(0, 3), data=st.data()
)
def test_every_epoch_is_a_permutation(
    rows: list[int], shuffle: Shuffle, block: int, seed: int, data: st.DataObject
) -> None:
    made = order(rows, shuffle, block, seed)
    epoch = data.draw(st.integers(0, 3))
    whole = epoch_of(made, epoch)
    assert np.array_equal(np.sort(whole), np.arange(made.n))
    assert [made.size(epoch, b) for b in range(made.blocks)] == [len(made.block(epoch, b)) for b in range(made.blocks)]
    # One who has seen nothing else finds the same block.
    number = data.draw(st.integers(0, made.blocks - 1))
    assert np.array_equal(order(rows, shuffle, block, seed).block(epoch, number), made.block(epoch, number))
    # Where a position stands, against looking for it.
    position = data.draw(st.integers(0, made.n - 1))
    place = made.place(position, epoch)
    assert made.block(epoch, place.block)[place.offset] == position


@settings(max_examples=60, deadline=None)
@given(rows=shapes, shuffle=st.sampled_from(SHUFFLES), block=st.integers(1, 60), data=st.data())
def test_taking_goes_through_epochs(rows: list[int], shuffle: Shuffle, block: int, data: st.DataObject) -> None:
    made = order(rows, shuffle, block)
    endless = np.concatenate([epoch_of(made, epoch) for epoch in range(4)])
    place, taken = Place(), 0
    for count in data.draw(st.lists(st.integers(0, made.n), max_size=3)):
        positions, epochs, place = made.take(place, count)
        assert np.array_equal(positions, endless[taken : taken + count])
        assert np.array_equal(epochs, np.arange(taken, taken + count) // made.n)
        taken += count
        assert made.skip(Place(), taken) == place


@settings(max_examples=60, deadline=None)
@given(rows=shapes, shuffle=st.sampled_from(["shard", "block"]), block=st.integers(1, 200))
def test_blocks_open_few_shards_and_hold_what_they_should(rows: list[int], shuffle: Shuffle, block: int) -> None:
    made = order(rows, shuffle, block)
    assert made.shard_firsts is not None
    pieces = [part for size in rows for part in [1] * -(-size // block)]
    assert made.pieces == len(pieces)
    for number in range(made.blocks):
        positions = made.block(0, number)
        shards = np.searchsorted(made.shard_firsts, positions, side="right") - 1
        assert len(np.unique(shards)) <= -(-made.pieces // made.blocks) < 2 * made.shards_at_once + 1


def test_shard_keeps_rows_as_they_lie_and_block_mixes_them() -> None:
    rows = [10] * 40
    in_shards, in_blocks = order(rows, "shard", 50), order(rows, "block", 50)
    assert in_shards.blocks == in_blocks.blocks == 8
    starts = []
    for number in range(8):
        sequential, mixed = in_shards.block(1, number), in_blocks.block(1, number)
        assert np.array_equal(np.sort(sequential), np.sort(mixed)), "the same shards"
        assert not np.array_equal(sequential, mixed)
        runs = sequential.reshape(5, 10)
        assert (np.diff(runs, axis=1) == 1).all()
        starts += runs[:, 0].tolist()
    assert sorted(starts) == list(range(0, 400, 10))
    assert starts != sorted(starts)
    assert not np.array_equal(in_blocks.block(0, 0), in_blocks.block(1, 0)), "epochs differ"


def test_large_shards_are_cut() -> None:
    made = order([1000, 7], "shard", 300)
    assert made.pieces == 5
    sizes = sorted(made.size(0, number) for number in range(made.blocks))
    assert sum(sizes) == 1007
    assert max(sizes) <= 600
    assert made.blocks == 2, "a block of 300 takes 2 of 5 pieces, 201 samples each"


def test_none_is_the_order_of_the_dataset() -> None:
    assert np.array_equal(epoch_of(order([3, 4, 90], "none"), 1), np.arange(97))


def test_pinned() -> None:
    """A changed order would resume every saved run into another one."""
    made = order([4, 3, 5], "block", 6, seed=1)
    assert epoch_of(made, 0).tolist() == [10, 9, 6, 5, 3, 8, 2, 11, 7, 1, 4, 0]
    assert epoch_of(order([4, 3, 5], "shard", 6, seed=1), 0).tolist() == [7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6]
    assert epoch_of(Order(n=10, shuffle="global", seed=1), 0).tolist() == [5, 2, 8, 4, 1, 3, 0, 6, 7, 9]


def test_shards_must_be_known() -> None:
    with pytest.raises(SpecError, match="shuffle: block needs a dataset with shards; use `global` or `none`"):
        Order(n=5, shuffle="block", seed=0)


def test_nothing_to_take() -> None:
    empty = Order(n=0, shuffle="global", seed=0)
    assert empty.blocks == 1
    assert len(empty.block(0, 0)) == 0
    with pytest.raises(ValueError, match="no samples"):
        empty.take(Place(), 1)


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_a_billion_samples_in_a_million_shards(shuffle: Shuffle) -> None:
    firsts = np.arange(1_000_001, dtype=np.int64) * 1000
    made = Order(n=1_000_000_000, shuffle=shuffle, seed=0, shard_firsts=firsts)
    tracemalloc.start()
    assert len(made.block(3, made.blocks - 1)) == 10_000
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    times = []
    for epoch, number in itertools.product(range(2), (0, 77_777, made.blocks - 1)):
        start = time.perf_counter()
        block = made.block(epoch, number)
        times.append(time.perf_counter() - start)
        assert len(np.unique(block)) == 10_000
    assert min(times) < 0.05
    place = made.place(123_456_789, 2)
    assert made.block(2, place.block)[place.offset] == 123_456_789
