"""Early stopping: patience, what counts as better, and a state that goes on exactly."""

from __future__ import annotations

import math

import pytest

from mmdata.errors import SpecError
from mmtrain.stopping import Stopping, StoppingSpec


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
