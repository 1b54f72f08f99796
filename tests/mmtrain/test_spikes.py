"""The rule by which steps stand out: planted leaps are found, noise and trends are not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mmdata import rng
from mmtrain.spikes import spikes


def falling(steps: int, noise: float, *, seed: int = 0) -> list[dict[str, Any]]:
    """A loss that falls from 4 to 2 with noise of this share."""
    chance = rng.generator("spikes", seed).normal(0, noise, steps)
    curve = (2 + 2 * np.exp(-np.arange(steps) / 100)) * np.exp(chance)
    return [{"step": n, "loss": loss, "skipped": None, "targets": 9} for n, loss in enumerate(curve.tolist())]


@pytest.mark.parametrize("at", [8, 20, 150, 399])
def test_a_planted_leap_comes_first(at: int) -> None:
    log = falling(400, 0.03)
    log[at]["loss"] *= 2
    first, second, *_ = spikes(log)
    assert (first.step, first.leaps) == (at, True)
    assert second.score < first.score / 2
    assert first.expected == pytest.approx(log[at]["loss"] / 2, rel=0.15)


def test_noise_and_a_falling_loss_are_no_spikes() -> None:
    found = [each.leaps for seed in range(5) for each in spikes(falling(1000, 0.05, seed=seed))]
    assert len(found) == 5 * 992  # the first eight have too few before them
    assert sum(found) <= len(found) * 0.002


def test_what_the_run_left_out_leaps_and_is_not_expected_again() -> None:
    log = falling(40, 0.02)
    log[2] |= {"loss": None, "skipped": "loss_not_finite"}
    log[30] |= {"loss": 50.0, "skipped": "loss_spike"}
    found = spikes(log)
    assert [(each.step, each.skipped) for each in found[:2]] == [(2, "loss_not_finite"), (30, "loss_spike")]
    assert math.isnan(found[0].loss)
    assert found[0].score == found[1].score == math.inf
    (after,) = spikes(log, steps={31})
    assert after.expected < 4
    assert not after.leaps


def test_tasks_have_expectations_of_their_own() -> None:
    log = [line | {"loss/a": line["loss"] * 2, "loss/b": None} for line in falling(60, 0.01)]
    (last,) = spikes(log, steps={59})
    assert last.tasks == {"a": pytest.approx(2 * last.expected)}
