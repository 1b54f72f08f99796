"""Early stopping: patience, what counts as better, and a state that goes on exactly."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mmdata.errors import SpecError
from mmtrain.held_out import EvaluationSpec
from mmtrain.stopping import Stopping, StoppingSpec, check


def ends_after(spec: StoppingSpec, values: list[float]) -> int | None:
    stopping = Stopping(spec)
    for number, value in enumerate(values):
        stopping.tell(value)
        if stopping.stop:
            return number
    return None


def test_patience_counts_evaluations_in_a_row() -> None:
    values = [3.0, 2.0, 2.5, 1.9, 2.0, 2.0, 2.0]
    assert ends_after(StoppingSpec(patience=0), values) == 2
    assert ends_after(StoppingSpec(patience=1), values) == 5
    assert ends_after(StoppingSpec(patience=2), values) == 6
    assert ends_after(StoppingSpec(patience=3), values) is None


def test_more_may_be_better_and_by_how_much() -> None:
    assert ends_after(StoppingSpec(patience=0, mode="max"), [0.1, 0.2, 0.2]) == 2
    assert ends_after(StoppingSpec(patience=0, min_delta=0.5), [3.0, 2.4, 2.0]) == 2
    assert ends_after(StoppingSpec(patience=0), [math.nan]) == 0


def test_it_goes_on_where_it_was() -> None:
    spec, values = StoppingSpec(patience=2), [3.0, 2.0, 2.5, 2.6, 1.0, 2.0]
    whole = Stopping(spec)
    for value in values:
        whole.tell(value)
    for cut in range(len(values)):
        first, second = Stopping(spec), Stopping(spec)
        for value in values[:cut]:
            first.tell(value)
        second.load_state_dict(first.state_dict())
        for value in values[cut:]:
            second.tell(value)
        assert second.state_dict() == whole.state_dict()


def test_a_metric_that_is_not_there_is_named() -> None:
    with pytest.raises(SpecError, match=r"early_stopping.metric: 'los'.*loss"):
        Stopping(StoppingSpec(metric="los")).value_in({"loss": 1.0})


@pytest.mark.parametrize(
    ("told", "evaluation", "message"),
    [
        ({}, None, "early_stopping: nothing is evaluated, so nothing would end the run"),
        ({"metric": "pets/loss"}, {}, "early_stopping.metric: 'pets/loss'; .*held_out/loss"),
        ({"metric": "held_out/anls", "mode": "max"}, {}, "held_out/anls: evaluation.metrics has no anls"),
        ({"metric": "held_out/exact_match", "mode": "max"}, {}, "evaluation.generate: 0 answers nothing"),
        (
            {"metric": "held_out/exact_match"},
            {"generate": 4},
            "min: of held_out/exact_match more is better; set mode: max",
        ),
        (
            {"metric": "held_out/cer", "mode": "max"},
            {"generate": 4, "metrics": ["cer"]},
            "less is better; set mode: min",
        ),
        ({"mode": "max"}, {}, "max: of loss less is better"),
        ({"metric": "held_out/event_f1"}, {}, "held_out/event_f1 more is better"),
    ],
)
def test_what_does_not_fit_the_evaluation_is_said(told: Any, evaluation: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check(StoppingSpec(**told), None if evaluation is None else EvaluationSpec(**evaluation))


def test_what_fits_passes() -> None:
    told = EvaluationSpec(generate=2, metrics=("exact_match", "wer"))
    for metric, mode in [("loss", "min"), ("held_out/loss/a task", "min"), ("held_out/wer", "min")]:
        check(StoppingSpec(metric=metric, mode=mode), told)  # type: ignore[arg-type]
    check(StoppingSpec(metric="held_out/exact_match", mode="max"), told)
    check(StoppingSpec(metric="held_out/text_r@1", mode="max"), told)
    check(None, None)
