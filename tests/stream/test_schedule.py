"""Schedules: what weighs what when, exactly."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from mmdata.errors import SpecError
from mmdata.stream.fair import PARTS
from mmdata.stream.mixture import DatasetSpec, Stage
from mmdata.stream.schedule import exact, scheduled, weights_of

BOTH = (DatasetSpec(path="a", weight=0.7), DatasetSpec(path="b", weight=0.3))


def of_b(stages: list[Stage], at: int) -> Fraction:
    return scheduled(BOTH, stages, at)["b"]


def test_numbers_are_as_written() -> None:
    assert exact(0.1) == Fraction(1, 10)
    assert exact(1e-7) == Fraction(1, 10**7)
    assert scheduled(BOTH, (), 10**12) == {"a": Fraction(7, 10), "b": Fraction(3, 10)}


def test_stages_hold_until_the_next_one() -> None:
    stages = [Stage(at=10, weights={"b": 5}), Stage(at=20, weights={"a": 1}), Stage(at=30, weights={"b": 0})]
    assert [float(of_b(stages, at)) for at in (0, 9, 10, 29, 30, 99)] == [0.3, 0.3, 5, 5, 0, 0]
    assert scheduled(BOTH, stages, 25)["a"] == 1, "a stage leaves alone what it does not name"


def test_gradual_changes_begin_at_the_stage_before() -> None:
    stages = [Stage(at=100, weights={"b": 1}), Stage(at=300, weights={"b": 3}, change="linear")]
    assert [of_b(stages, at) for at in (99, 100, 150, 299, 300)] == [
        Fraction(3, 10), 1, Fraction(3, 2), Fraction(299, 100), 3
    ]  # fmt: skip
    smooth = [stages[0], Stage(at=300, weights={"b": 3}, change="cosine")]
    for at in range(100, 300, 10):
        expected = 1 + 2 * (1 - math.cos(math.pi * (at - 100) / 200)) / 2
        assert float(of_b(smooth, at)) == pytest.approx(expected, abs=3e-9)
    assert of_b(smooth, 300) == 3


def test_the_first_stage_begins_with_the_weights_of_the_datasets() -> None:
    stages = [Stage(at=10, weights={"b": 1.3}, change="linear")]
    assert [of_b(stages, at) for at in (0, 5, 10)] == [Fraction(3, 10), Fraction(8, 10), Fraction(13, 10)]


def test_blocks_take_effect_at_their_beginning() -> None:
    stages = [Stage(at=150, weights={"a": 0})]
    weights = weights_of(BOTH, stages, block_samples=100)
    tenths = PARTS // 10
    assert [weights(block) for block in range(3)] == [(7 * tenths, 3 * tenths), (7 * tenths, 3 * tenths), (0, PARTS)]


def test_what_is_set_by_hand_wins() -> None:
    weights = weights_of(
        BOTH,
        [Stage(at=300, weights={"a": 0})],
        block_samples=100,
        controlled=lambda block: {"a": Fraction(3, 10)} if block >= 2 else {},
    )
    assert weights(1) == (700_000_000, 300_000_000)
    assert weights(2) == weights(3) == (500_000_000, 500_000_000)


def test_mistakes() -> None:
    nothing = weights_of(BOTH, [Stage(at=100, weights={"a": 0, "b": 0})], block_samples=100)
    with pytest.raises(SpecError, match="in block 1 every dataset weighs 0"):
        nothing(1)
    unknown = weights_of(BOTH, (), block_samples=100, controlled=lambda block: {"c": Fraction(1)})
    with pytest.raises(SpecError, match="control log: no dataset is called c; there are a, b"):
        unknown(0)
