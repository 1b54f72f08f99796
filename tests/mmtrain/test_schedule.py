"""Rates: equal to transformers' schedules where these say the same, phase by phase as they are written."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmdata.errors import SpecError
from mmtrain.schedule import Phase, ScheduleSpec, schedule


def theirs(make: Any, **options: Any) -> Any:
    """transformers' factor of a step."""
    optim = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return make(optim, **options).lr_lambdas[0]


def trace(steps: int, **options: Any) -> list[float]:
    spec = ScheduleSpec(**options)
    return [schedule(step, steps, spec) for step in range(steps)]


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd"])
def test_they_are_those_of_transformers(kind: str, warmup: int) -> None:
    """Ours begins with a warm-up step's rate where theirs begins with none, and ends at the last rate where theirs
    would be a step later: theirs of step + 1 in the warm-up, of a run one step shorter after it."""
    steps, low = 40, 0.2
    options: dict[str, Any] = {"num_warmup_steps": warmup}
    match kind:
        case "constant":
            make = transformers.get_constant_schedule_with_warmup
        case "linear":
            make = transformers.get_polynomial_decay_schedule_with_warmup
            options |= {"num_training_steps": steps - 1, "lr_end": low, "power": 1.0}
        case "cosine":
            make = transformers.get_cosine_with_min_lr_schedule_with_warmup
            options |= {"num_training_steps": steps - 1, "min_lr_rate": low}
        case _:
            make = transformers.get_wsd_schedule
            stable = steps - 10 - warmup
            options |= {"num_decay_steps": 9, "num_stable_steps": stable, "min_lr_ratio": low, "decay_type": "cosine"}
    expected = theirs(make, **options)
    found = trace(steps, schedule=kind, warmup_steps=warmup, min_lr=low, decay_share=0.25, decay_curve="cosine")
    if kind == "wsd":  # their warm-up starts at the lowest rate, ours at zero
        assert found[:warmup] == [(step + 1) / warmup for step in range(warmup)]
    else:
        assert found[:warmup] == pytest.approx([expected(step + 1) for step in range(warmup)], abs=1e-12)
    assert found[warmup:] == pytest.approx([expected(step) for step in range(warmup, steps)], abs=1e-12)


def test_the_root_decay_is_that_of_transformers() -> None:
    expected = theirs(
        transformers.get_wsd_schedule,
        num_warmup_steps=0,
        num_decay_steps=9,
        num_stable_steps=10,
        min_lr_ratio=0.1,
        decay_type="1-sqrt",
    )
    found = trace(20, schedule="wsd", warmup_steps=0, min_lr=0.1, decay_share=0.5)
    assert found == pytest.approx([expected(step) for step in range(20)], abs=1e-12)


def test_phases_follow_each_other() -> None:
    phases = [
        {"until": 0.5},
        {"steps": 3, "curve": "linear", "to": 0.5},
        {"curve": "cosine", "start": 0.8, "to": 0.0},
    ]
    found = trace(12, schedule=phases, warmup_steps=2)
    assert found[:6] == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert found[6:9] == pytest.approx([1.0, 0.75, 0.5])
    assert found[9:] == pytest.approx([0.8, 0.4, 0.0], abs=1e-12)


def test_after_the_last_phase_the_rate_stays() -> None:
    found = trace(10, schedule=[{"steps": 4, "curve": "linear", "to": 0.4}], warmup_steps=0)
    assert found[4:] == [0.4] * 6


@given(
    steps=st.integers(1, 60),
    warmup=st.integers(0, 20),
    kind=st.sampled_from(["constant", "linear", "cosine", "wsd"]),
    low=st.floats(0, 1),
    share=st.floats(0.01, 1),
)
def test_it_never_leaves_its_bounds(steps: int, warmup: int, kind: str, low: float, share: float) -> None:
    found = trace(steps, schedule=kind, warmup_steps=warmup, min_lr=low, decay_share=share)
    assert all(0 <= rate <= 1 for rate in found)
    assert min(found) >= min(low, *found[:warmup], 1) - 1e-12
    assert found[:warmup] == sorted(found[:warmup])
    after = found[warmup:]
    assert after == sorted(after, reverse=True)
    if kind != "constant" and len(after) > 2 and (kind != "wsd" or round(share * steps) > 1):
        assert math.isclose(after[-1], low, abs_tol=1e-12)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"until": 0.5, "steps": 3}], "leave one out"),
        ([{"curve": "linear"}], "goes nowhere"),
        ([{"curve": "constant", "to": 0.5}], "goes nowhere"),
        ([{}, {}], "only the last phase"),
        ([], "needs one at least"),
    ],
)
def test_phases_that_say_nothing_are_refused(phases: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ScheduleSpec(schedule=phases)  # type: ignore[arg-type]


def test_a_phase_that_ends_before_it_begins_is_named() -> None:
    spec = ScheduleSpec(schedule=(Phase(until=0.8), Phase(until=0.5)), warmup_steps=0)
    with pytest.raises(SpecError, match=r"schedule.1: it ends at step 5 of 10 and begins at 8"):
        schedule(3, 10, spec)
