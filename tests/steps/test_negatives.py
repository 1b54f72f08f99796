"""Questions about what is not there: stated ratios, none of what is there, and points to click on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mmdata.boxes import parse_boxes
from mmdata.boxes.points import parse_points
from mmdata.steps._negatives import Scene, absent, empty
from mmdata.steps.instruct import Instruct
from tests.steps.given import build, image, record
from tests.steps.test_instruct import BOXES, CAT, PICTURE, said, told

PHRASES = ("cat", "dog", "black cat", "small dog", "horse", "red bus")
BOTH: dict[str, Any] = {"tasks": ["grounding", "referring"], "coordinates": "internvl", "meta": BOXES, "turns": 2}


def test_ratios_are_as_stated() -> None:
    negatives = {"share": 0.4, "hard": 2, "random": 1, "background": 1, "phrases": PHRASES}
    seen: Counter[str] = Counter()
    for key in range(600):
        sample = told(PICTURE, key=str(key), negatives=negatives, **{**BOTH, "turns": 1})
        seen[[*sample.meta["instruct"][0].split("/"), "there"][2]] += 1
        question, answer = said(sample)
        kind = [*sample.meta["instruct"][0].split("/"), "there"][2]
        if kind in ("hard", "random"):
            asked = question.partition("<ref>")[2].partition("</ref>")[0]
            assert asked in (("black cat", "small dog") if kind == "hard" else ("horse", "red bus"))
            assert answer == "There is none."
        elif kind == "background":
            ((x0, y0, x1, y1),) = [each.box for each in parse_boxes(question, (240, 320), "internvl")]
            assert answer == "Nothing."
            for left, top, right, bottom in BOXES["boxes"]:
                overlap = min(x1, right) - max(x0, left), min(y1, bottom) - max(y0, top)
                assert min(overlap) <= 1, "but for the rounding to thousandths it touches no box"
    total = sum(seen.values())
    assert total == 600
    assert seen["there"] / total == pytest.approx(0.6, abs=0.06)
    negative = total - seen["there"]
    assert seen["hard"] / negative == pytest.approx(0.5, abs=0.08)
    assert seen["random"] / negative == pytest.approx(0.25, abs=0.08)


def test_a_phrase_is_asked_for_once_and_the_kinds_that_there_are_are_drawn() -> None:
    negatives = {"share": 0.9, "hard": 1, "random": 0, "phrases": PHRASES}
    for key in range(30):
        texts = said(told(PICTURE, key=str(key), negatives=negatives, **{**BOTH, "turns": 6}))
        absentees = [text for text, answer in zip(texts[::2], texts[1::2], strict=True) if answer == "There is none."]
        asked = [text.partition("<ref>")[2].partition("</ref>")[0] for text in absentees]
        assert len(asked) == len(set(asked)) <= 2
    none = {"share": 0.9, "hard": 1, "random": 1, "phrases": ("cat", "Dog")}
    assert "There is none." not in said(told(PICTURE, negatives=none, **BOTH)), "all phrases are in the picture"


@given(st.lists(st.sampled_from(["a cat", "red cat", "red dog", "the bus", "CAT", "黒猫"]), max_size=3))
@settings(deadline=None, max_examples=30)
def test_near_and_far_phrases_are_what_is_missing(names: list[str]) -> None:
    phrases = ["cat", "red cat", "red dog", "bus", "the", "猫"]
    near, far = absent(phrases, names)
    said = {"a cat": {"cat"}, "red cat": {"cat", "red cat"}, "red dog": {"red dog"}, "the bus": {"bus"}, "CAT": {"cat"}}
    there = set[str]().union(*(said.get(name, {"猫"}) | {"the"} for name in names))
    assert sorted(near + far) == sorted(set(phrases) - there)
    for phrase in far:
        assert not any(set(phrase.split()) & set(name.lower().split()) for name in names)


def test_a_crowd_is_there_too() -> None:
    """Nothing is asked about it; nor may it be denied, or its place be called empty."""
    meta = {"boxes": [[0, 0, 40, 40], [0, 0, 320, 200]], "labels": ["cat", "person"], "crowds": [1]}
    negatives = {"share": 0.9, "hard": 0, "random": 1, "background": 1, "phrases": ("person", "horse")}
    asked: Counter[str] = Counter()
    for key in range(60):
        sample = told(PICTURE, key=str(key), negatives=negatives, **{**BOTH, "meta": meta, "turns": 1})
        question, answer = said(sample)
        if answer == "There is none.":
            asked[question.partition("<ref>")[2].partition("</ref>")[0]] += 1
        elif answer == "Nothing.":
            ((_, top, *_),) = [each.box for each in parse_boxes(question, (240, 320), "internvl")]
            assert top >= 199, "below the crowd"
    assert set(asked) == {"horse"}


def test_a_full_picture_has_no_empty_place() -> None:
    whole = (0.0, 0.0, 9.0, 9.0)
    scene = Scene(found=(("all", whole),), size=(10, 10), names=("all",), taken=(whole,))
    assert empty(scene, np.random.default_rng(0)) is None


def test_points_lie_in_the_boxes_that_are_pointed_at() -> None:
    sample = told(PICTURE, meta={"boxes": [CAT], "labels": ["cat"]}, tasks=["pointing"], coordinates="qwen3_vl")
    question, answer = said(sample)
    assert "cat" in question
    ((x, y),) = parse_points(answer, (240, 320))
    assert (x, y) == pytest.approx((96, 72), abs=0.5)
    ((reference,),) = [sample.meta["answers"]]
    (box,) = [each.box for each in parse_boxes(reference, (240, 320), "qwen3_vl")]
    assert box == pytest.approx(CAT, abs=0.5)


@pytest.mark.parametrize(
    ("negatives", "message"),
    [
        ({"phrases": ["a"], "background": 1}, "background needs a task referring"),
        ({}, "draw from `phrases`"),
        ({"hard": 0, "random": 0}, "all 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(negatives: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Instruct(tasks=["grounding"], coordinates="internvl", negatives=negatives)  # type: ignore[list-item, arg-type]


def test_a_build_asks_the_same_again(tmp_path: Path) -> None:
    step = {"kind": "instruct", **{name: BOTH[name] for name in ("tasks", "coordinates", "turns")}}
    step["negatives"] = {"share": 0.5, "phrases": list(PHRASES)}
    assert PICTURE.data is not None
    rows = [record(image(PICTURE.data), "a cat", **BOXES) for _ in range(6)]
    first, again = (build(tmp_path, rows, [step], name=name).dataset for name in ("first", "again"))
    assert first.manifest.root_digest == again.manifest.root_digest
    asked = [name for at in range(6) for name in first.sample(at).meta["instruct"]]
    assert len({name.count("/") for name in asked}) == 2, "some are about what is there, some are not"
