"""Mixtures: shares at every prefix, across blocks and resumes; datasets that end; nothing measured twice in vain."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError
from mmdata.stream.draws import Draws
from mmdata.stream.fair import parts
from mmdata.stream.mix import Cursors, DatasetCursor, Mixer, Part, joined
from mmdata.stream.mixture import WeighBy
from mmdata.stream.order import Order


def length(dataset: int, position: int) -> int:
    """Of any sample: one in 13 is left out, and datasets differ."""
    return 0 if position % 13 == 5 else 1 + (position * 7919 + dataset) % (20 * (dataset + 1))


class Counting:
    """`measure` by `length`, and how much of it was asked for."""

    def __init__(self) -> None:
        self.samples = 0

    def __call__(self, draws: Draws) -> np.ndarray:
        self.samples += len(draws)
        pairs = zip(draws.dataset.tolist(), draws.position.tolist(), strict=True)
        return np.array([length(d, p) for d, p in pairs], np.int64)


def mixer(
    sizes: Sequence[int],
    weights: Sequence[float],
    *,
    epochs: Sequence[int | None] = (),
    block_samples: int = 50,
    weigh_by: WeighBy = "tokens",
) -> Mixer:
    chosen = [Fraction(str(weight)) for weight in weights]
    made = [
        Part(name=f"d{i}", order=Order(n=n, shuffle="global", seed=i, block_samples=7), epochs=each)
        for i, (n, each) in enumerate(zip(sizes, epochs or [None] * len(sizes), strict=True))
    ]
    return Mixer(made, lambda number: parts(chosen), block_samples=block_samples, weigh_by=weigh_by)


def blocks(made: Mixer, count: int, cursors: Cursors | None = None, first: int = 0) -> tuple[list[Draws], Cursors]:
    cursors, found = made.first() if cursors is None else cursors, []
    for number in range(first, first + count):
        draws, cursors = made.block(cursors, number, Counting())
        found.append(draws)
    return found, cursors


def triples(draws: Draws) -> list[tuple[int, int, int]]:
    return list(zip(draws.dataset.tolist(), draws.position.tolist(), draws.epoch.tolist(), strict=True))


@settings(max_examples=20, deadline=None)
@given(
    weights=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 60), min_size=5, max_size=5),
    weigh_by=st.sampled_from(["tokens", "samples"]),
)
def test_every_prefix_within_and_across_blocks(weights: list[int], sizes: list[int], weigh_by: WeighBy) -> None:
    made = mixer([size + 10 for size in sizes[: len(weights)]], weights, weigh_by=weigh_by)
    found, cursors = blocks(made, 6)
    draws = triples(joined(found))
    given = [0] * len(weights)
    largest = 1 if weigh_by == "samples" else 20 * len(weights)
    for d, position, _ in draws:
        given[d] += min(length(d, position), 1) if weigh_by == "samples" else length(d, position)
        for each, weight in enumerate(weights):
            # Beside the bound of exact weights: parts are rounded to a billionth.
            assert abs(weight / sum(weights) * sum(given) - given[each]) <= largest + 1e-3
    assert [cursor.amount for cursor in cursors] == given
    assert [cursor.samples for cursor in cursors] == [sum(d == each for d, _, _ in draws) for each in range(len(given))]


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(0, 8), size=st.integers(20, 90), ends=st.booleans())
def test_a_block_hangs_on_its_cursors_alone(cut: int, size: int, ends: bool) -> None:
    sizes, weights, epochs = [size, 40, 33], [3, 2, 0.5], [2 if ends else None, None, None]
    found, last = blocks(mixer(sizes, weights, epochs=epochs), 8)
    _, cursors = blocks(mixer(sizes, weights, epochs=epochs), cut)
    # As JSON has it.
    plain: Cursors = tuple(DatasetCursor(*list(cursor)) for cursor in cursors)
    later, end = blocks(mixer(sizes, weights, epochs=epochs), 8 - cut, plain, cut)
    assert [triples(block) for block in later] == [triples(block) for block in found[cut:]]
    assert end == last


def test_each_dataset_goes_through_its_epochs_in_its_order() -> None:
    made = mixer([30, 45], [1, 2])
    found, _ = blocks(made, 10)
    for d, part in enumerate(made.parts):
        drawn = [(position, epoch) for dataset, position, epoch in triples(joined(found)) if dataset == d]
        n = part.order.n
        for epoch in range(len(drawn) // n):
            whole = drawn[epoch * n : (epoch + 1) * n]
            assert {e for _, e in whole} == {epoch}
            expected = np.concatenate([part.order.block(epoch, b) for b in range(part.order.blocks)])
            assert [position for position, _ in whole] == expected.tolist()


def test_a_spent_dataset_hands_its_weight_to_the_others() -> None:
    made = mixer([40, 400, 400], [5, 2, 3], epochs=[2, None, None], block_samples=100, weigh_by="samples")
    found, cursors = blocks(made, 6)
    draws = triples(joined(found))
    last = max(i for i, (d, _, _) in enumerate(draws) if d == 0)
    assert sum(d == 0 for d, _, _ in draws) == 80
    given = [0, 0, 0]
    for d, position, _ in draws[last + 1 :]:
        given[d] += min(length(d, position), 1)
        assert abs(given[1] - 0.4 * sum(given)) <= 2
    assert cursors[0].lag == 0
    assert not made.spent(cursors)


def test_a_bounded_mixture_ends_with_every_sample_given() -> None:
    made = mixer([30, 50], [1, 4], epochs=[1, 2], block_samples=40)
    found, cursors = blocks(made, 5)
    assert [len(block) for block in found] == [40, 40, 40, 10, 0]
    assert made.spent(cursors)
    assert sorted(triples(joined(found))) == sorted(
        [(0, p, 0) for p in range(30)] + [(1, p, e) for p in range(50) for e in range(2)]
    )


def test_weights_may_change_from_block_to_block() -> None:
    base = mixer([500, 500], [1, 1])
    made = Mixer(
        base.parts,
        lambda number: parts([Fraction(1), Fraction(9)] if number >= 2 else [Fraction(1), Fraction(0)]),
        block_samples=100,
        weigh_by="samples",
    )
    found, _ = blocks(made, 4)
    shares = [float((block.dataset == 1).mean()) for block in found]
    assert shares[:2] == [0, 0]
    assert shares[2] == pytest.approx(0.9, abs=0.03)
    assert shares[3] == pytest.approx(0.9, abs=0.03)


def test_a_dataset_without_a_usable_sample_is_named() -> None:
    made = mixer([20, 20], [1, 1])
    with pytest.raises(DataError, match="d1: none of its 20 samples can be used; take it out of the mixture"):
        made.block(made.first(), 0, lambda draws: np.where(draws.dataset == 1, 0, 5))


def test_little_is_measured_in_vain_and_it_is_quick() -> None:
    made = mixer([10**9, 100_000, 5_000, 77], [0.5, 0.3, 0.15, 0.05], block_samples=10_000)
    cursors = made.first()
    first = Counting()
    _, cursors = made.block(cursors, 0, first)
    assert first.samples < 11_000
    again = Counting()
    formed = made.form(cursors, 1, again)
    assert again.samples < 10_200
    assert len(formed.draws) == len(np.unique(formed.chosen)) == 10_000
    answers: dict[tuple[int, int, int], int] = {}

    def remember(draws: Draws) -> np.ndarray:
        amounts = Counting()(draws)
        answers.update(zip(triples(draws), amounts.tolist(), strict=True))
        return amounts

    made.block(cursors, 1, remember)

    def known(draws: Draws) -> np.ndarray:
        return np.array([answers[triple] for triple in triples(draws)], np.int64)

    start = time.process_time()
    known(formed.draws)
    measuring = time.process_time() - start
    start = time.process_time()
    draws, _ = made.block(cursors, 1, known)
    assert time.process_time() - start - measuring < 0.2  # 0.04 on an idle core
    assert triples(draws) == triples(formed.draws)


def test_chosen_finds_what_was_measured() -> None:
    made = mixer([300, 500], [1, 3], block_samples=200)
    asked: list[tuple[int, int, int]] = []

    def measure(draws: Draws) -> np.ndarray:
        asked.extend(triples(draws))
        return Counting()(draws)

    formed = made.form(made.first(), 0, measure)
    assert [asked[i] for i in formed.chosen.tolist()] == triples(formed.draws)
