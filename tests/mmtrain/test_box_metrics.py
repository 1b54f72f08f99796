"""Metrics of boxes in generated text, against brute force."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mmdata.boxes import FORMATS, Box, BoxFormat, format_boxes, parse_boxes
from mmdata.boxes.points import format_points, parse_points
from mmtrain import evaluate
from mmtrain.box_metrics import box_accuracy, box_iou, overlap, pointing
from mmtrain.held_out import EvaluationSpec
from mmtrain.metrics import score

EDGE = st.sampled_from([0, 100, 250, 500, 800])
BOX = st.tuples(EDGE, EDGE, EDGE, EDGE).map(
    lambda b: (float(min(b[0], b[2])), float(min(b[1], b[3])), float(max(b[0], b[2])), float(max(b[1], b[3])))
)


def written(found: list[Box]) -> str:
    return format_boxes(found, (1000, 1000), "internvl") if found else "There is none."


@given(st.lists(BOX, max_size=3), st.lists(BOX, max_size=3))
@settings(deadline=None, max_examples=40)
def test_scores_are_those_of_some_matching(found: list[Box], wanted: list[Box]) -> None:
    value = box_iou(written(found), [written(wanted)], "internvl")
    if not found and not wanted:
        assert value == box_accuracy(written(found), [written(wanted)], "internvl") == 1
        return
    few, many = sorted((found, wanted), key=len)
    sums = [
        sum(overlap(a, b) for a, b in zip(few, order, strict=True)) for order in itertools.permutations(many, len(few))
    ]
    most = max(len(found), len(wanted))
    assert value <= max(sums) / most + 1e-9
    assert value >= max(sums) / most / 2 - 1e-9, "greedy matching is at least half as good as the best"
    if len(found) == len(wanted) == 1:
        theirs = torchvision.ops.box_iou(torch.tensor(found), torch.tensor(wanted)).nan_to_num()
        assert value == pytest.approx(float(theirs), abs=1e-6)


@given(BOX, BOX)
@settings(deadline=None, max_examples=40)
def test_stretching_an_axis_changes_nothing(a: Box, b: Box) -> None:
    wide: list[Box] = [(3 * x0, y0, 3 * x1, y1) for x0, y0, x1, y1 in (a, b)]
    assert overlap(*wide) == pytest.approx(overlap(a, b))


@pytest.mark.parametrize("name", FORMATS)
def test_answers_in_every_format_are_read(name: BoxFormat) -> None:
    size = (200, 200)
    right, wrong = format_boxes([(20, 20, 120, 100)], size, name), format_boxes([(130, 110, 190, 190)], size, name)
    assert score("box_iou", f"It is at {right}", [right], name) == pytest.approx(1.0)
    assert score("box_accuracy", right, [wrong], name) == 0
    assert score("pointing", right, [right], name) == 1
    assert score("pointing", wrong, [right], name) == 0
    assert score("box_iou", "I see nothing.", [right], name) == 0
    assert score("box_iou", "I see nothing.", [wrong, "There is none."], name) == 1


def test_points_are_hits_where_they_lie_in_a_box() -> None:
    box = written([(100, 100, 500, 500)])
    assert pointing(format_points([(250, 500)], (1000, 1000)), [box], "internvl") == 1
    assert pointing(format_points([(250, 501)], (1000, 1000), "point"), [box], "internvl") == 0
    two = written([(100, 100, 500, 500), (600, 600, 800, 800)])
    once = format_points([(200, 200), (300, 300)], (1000, 1000))
    assert pointing(once, [two], "internvl") == 0.5, "a box is hit once"
    inside = format_boxes([(0, 0, 1000, 1000), (0, 0, 400, 400)], (1000, 1000), "internvl")
    for points in ([(100, 100), (900, 900)], [(900, 900), (100, 100)]):
        told = "".join(format_points([point], (1000, 1000), "point") for point in points)
        assert pointing(told, [inside], "internvl") == 1, "in whichever order"
    assert parse_points("<|point_start|>(1,2)<|point_end|><click>3, 4</click>", (1000, 1000)) == [(1, 2), (3, 4)]


@given(st.text("<>[](),0123456789boxclik/ref|", max_size=60), st.sampled_from(FORMATS))
@settings(deadline=None, max_examples=40)
def test_any_text_is_read(text: str, name: BoxFormat) -> None:
    for metric in ("box_iou", "box_accuracy", "pointing"):
        assert 0 <= score(metric, text, ["<box>[[1, 2, 3, 4]]</box>"], name) <= 1  # type: ignore[arg-type]
    assert all(len(each.box) == 4 for each in parse_boxes(text, (10, 10), name))


def test_how_boxes_are_written_must_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValidationError, match="say with `coordinates`"):
        EvaluationSpec(metrics=("box_iou",))
    assert EvaluationSpec(metrics=("box_iou",), coordinates="shikra").coordinates == "shikra"
    with pytest.raises(ValueError, match="nobody says"):
        score("pointing", "", [""])
    with pytest.raises(SystemExit):
        evaluate.main([str(tmp_path), "--metrics", "box_iou", "--coordinates", "latin"])
    assert "paligemma" in capsys.readouterr().err
