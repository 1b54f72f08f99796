"""Boxes in the formats of models, against the models' own code where it is at hand, and back and forth in all."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.florence2.processing_florence2 import Florence2PostProcessor
from transformers.models.kosmos2 import processing_kosmos2 as kosmos
from transformers.models.paligemma.processing_paligemma import EXTRA_TOKENS

from mmdata.boxes import (
    FORMATS,
    Box,
    BoxFormat,
    Located,
    Size,
    boxes_at,
    format_answer,
    format_boxes,
    format_objects,
    format_phrase,
    parse_boxes,
    rewrite_boxes,
)

NAMED = [name for name in FORMATS if name not in ("shikra", "llava")]
"""Formats that say what lies in a box."""
SEEN = (224, 336)

sizes = st.tuples(st.integers(8, 3000), st.integers(8, 3000))
phrases = st.text("abc xyzäé-'", min_size=1, max_size=12).map(str.strip).filter(bool)


@st.composite
def pictures(draw: st.DrawFn) -> tuple[Size, Box]:
    """A picture and a box in it, of at least one pixel."""
    height, width = draw(sizes)
    left = draw(st.floats(0, width - 1, allow_nan=False))
    top = draw(st.floats(0, height - 1, allow_nan=False))
    right, bottom = draw(st.floats(left + 1, width)), draw(st.floats(top + 1, height))
    return (height, width), (left, top, right, bottom)


def step(name: BoxFormat, size: Size) -> tuple[float, float]:
    """The most that a coordinate may move, in pixels across and down."""
    height, width = size
    side = max(size)
    by_format = {
        "paligemma": (width / 2046, height / 2046),
        "qwen2_5_vl": (width / SEEN[1] / 2, height / SEEN[0] / 2),
        "kosmos2": (width / kosmos_cells() / 2, height / kosmos_cells() / 2),
        "shikra": (side / 2000, side / 2000),
        "llava": (side / 200, side / 200),
        "qwen3_vl": (width / 2000, height / 2000),
        "florence2": (width / 2000, height / 2000),
    }
    return by_format.get(name, (width / 999, height / 999))


def kosmos_cells() -> int:
    return 32


@given(pictures(), st.sampled_from(FORMATS))
def test_a_box_comes_back_to_within_a_step(given_: tuple[Size, Box], name: BoxFormat) -> None:
    size, box = given_
    (found,) = parse_boxes(format_boxes([box], size, name, seen=SEEN), size, name, seen=SEEN)
    across, down = step(name, size)
    if name == "kosmos2":  # Cells: a box is known to half of one, or to a whole one where it is that narrow.
        across, down = 2 * across, 2 * down
    for value, wanted, most in zip(found.box, box, (across, down, across, down), strict=True):
        assert abs(value - wanted) <= most + 1e-6


@given(st.lists(st.tuples(phrases, st.lists(pictures(), min_size=1, max_size=3)), min_size=1, max_size=4))
def test_objects_come_back_with_their_phrases(objects: list[tuple[str, list[tuple[Size, Box]]]]) -> None:
    """What is read is what was written, in its order."""
    size = (3000, 3000)
    made = [(phrase, [box for _, box in boxes]) for phrase, boxes in objects]
    wanted = [phrase for phrase, boxes in made for _ in boxes]
    for name in NAMED:
        text = format_objects(made, size, name, seen=SEEN)
        found = (
            parse_boxes(f"Here: \n{text}\nDone.", size, name, seen=SEEN)
            if name != "florence2"
            else parse_boxes(text, size, name)
        )
        expected = [*wanted[:-1], f"{wanted[-1]}\nDone."] if name == "paligemma" else wanted
        assert [one.phrase for one in found] == expected


@given(pictures(), st.sampled_from(FORMATS), st.integers(0, 200))
def test_what_breaks_off_is_read_as_far_as_it_goes(given_: tuple[Size, Box], name: BoxFormat, cut: int) -> None:
    """Generated text may stop anywhere: never an error, never a box that was not written."""
    size, box = given_
    text = format_objects([("a cat", [box]), ("a dog", [box])], size, name, seen=SEEN)
    whole = parse_boxes(text, size, name, seen=SEEN)
    found = parse_boxes(text[:cut], size, name, seen=SEEN)
    assert len(whole) == 2
    assert [one.box for one in found] == [one.box for one in whole[: len(found)]]


@given(st.text('()[]{}<>,;.:0123456789 "abx_/|', max_size=80), st.sampled_from(FORMATS))
def test_any_text_is_read(text: str, name: BoxFormat) -> None:
    for one in parse_boxes(text, (100, 100), name, seen=SEEN):
        assert all(map(math.isfinite, one.box))


MOVED = [name for name in FORMATS if name != "qwen2_5_vl"]


@given(pictures(), st.sampled_from(MOVED))
def test_boxes_in_a_text_move(given_: tuple[Size, Box], name: BoxFormat) -> None:
    """Standing still changes no letter; a picture mirrored twice has its boxes where they were; other words stay."""
    size, box = given_
    width = size[1]
    text = f"At 3 o'clock: {format_objects([('a cat', [box, box])], size, name)} and that is all, [1] (2)."
    assert rewrite_boxes(text, size, name, lambda box: box, size) == text

    def mirrored(box: Box) -> Box:
        return width - box[2], box[1], width - box[0], box[3]

    once = rewrite_boxes(text, size, name, mirrored, size)
    across, down = step(name, size)
    slack = 4 if name == "kosmos2" else 2
    for one in parse_boxes(once, size, name):
        for value, wanted, most in zip(one.box, mirrored(box), (across, down, across, down), strict=True):
            assert abs(value - wanted) <= slack * most + 1e-6
    assert once.startswith("At 3 o'clock: ")
    assert once.endswith(" and that is all, [1] (2).")


@pytest.mark.parametrize(("name", "plain"), [("qwen_vl", "(1,2),(3,4)"), ("internvl", "[1, 2, 3, 4]")])
def test_numbers_outside_of_tags_are_no_boxes(name: BoxFormat, plain: str) -> None:
    text = f"A line from {plain}: {format_boxes([(10, 20, 30, 40)], (100, 100), name)}"
    assert [box for _, _, box in boxes_at(text, (1, 1), name)] == [pytest.approx((0.1, 0.2, 0.3, 0.4), abs=2e-3)]
    moved = rewrite_boxes(text, (100, 100), name, lambda box: (0, 0, 50, 50), (100, 100))
    assert moved == f"A line from {plain}: {format_boxes([(0, 0, 50, 50)], (100, 100), name)}"


def test_pixels_as_seen_are_not_moved() -> None:
    with pytest.raises(ValueError, match="qwen2_5_vl cannot be moved"):
        rewrite_boxes("[1, 2, 3, 4]", (9, 9), "qwen2_5_vl", lambda box: box, (9, 9))


@given(pictures())
def test_florence_reads_what_we_write(given_: tuple[Size, Box]) -> None:
    """Its own quantiser gives the same bins (in float32, hence a picture's own rounding), its own parser our boxes."""
    size, box = given_
    box = (float(int(box[0])), float(int(box[1])), float(math.ceil(box[2])), float(math.ceil(box[3])))
    processor = Florence2PostProcessor(None, SimpleNamespace(all_special_tokens=[]))
    theirs = processor.quantize(torch.tensor([box], dtype=torch.float64), (size[1], size[0]))[0].tolist()
    text = format_objects([("a cat", [box]), ("a dog", [box, box])], size, "florence2")
    ours = [int(number) for number in re.findall(r"\d+", format_boxes([box], size, "florence2"))]
    assert all(abs(one - other) <= 1 for one, other in zip(ours, theirs, strict=True))
    read = processor.parse_phrase_grounding_from_text_and_spans(f"</s><s>{text}</s>", (size[1], size[0]))
    assert [(one["cat_name"], len(one["bbox"])) for one in read] == [("a cat", 1), ("a dog", 2)]
    flat = processor.parse_description_with_bboxes_from_text_and_spans(text, (size[1], size[0]))
    for one, other in zip(parse_boxes(text, size, "florence2"), flat, strict=True):
        assert one.phrase == other["cat_name"]
        assert [int(value + 1e-3) for value in one.box] == pytest.approx(other["bbox"], abs=1)


@given(pictures())
def test_kosmos_reads_what_we_write(given_: tuple[Size, Box]) -> None:
    size, box = given_
    height, width = size
    shares = (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    first, last = kosmos.coordinate_to_patch_index(shares, 32)
    assert format_boxes([box], size, "kosmos2") == f"<object><patch_index_{first:04d}><patch_index_{last:04d}></object>"
    text = "<grounding> An image of" + format_objects([("a cat", [box, box])], size, "kosmos2") + "."
    said, entities = kosmos.clean_text_and_extract_entities_with_bboxes(text)
    assert said == "An image of a cat."
    ((phrase, _, boxes),) = entities
    assert phrase == "a cat"
    ours = [tuple(one.box) for one in parse_boxes(text, (1, 1), "kosmos2")]
    assert ours == [pytest.approx(one) for one in boxes]


@given(pictures())
def test_paligemma_has_a_token_for_all_we_write(given_: tuple[Size, Box]) -> None:
    size, box = given_
    tokens = [f"{part}>" for part in format_boxes([box], size, "paligemma").split(">")[:-1]]
    assert len(tokens) == 4
    assert set(tokens) <= set(EXTRA_TOKENS)
    # big_vision: clip(round(bbox * 1023)), y before x.
    shares = torch.tensor([box[1] / size[0], box[0] / size[1], box[3] / size[0], box[2] / size[1]], dtype=torch.float64)
    assert [int(token[4:8]) for token in tokens] == (shares * 1023).round().clip(0, 1023).int().tolist()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("qwen_vl", "<ref>a cat</ref><box>(100,200),(999,400)</box>"),
        ("qwen2_vl", "<|object_ref_start|>a cat<|object_ref_end|><|box_start|>(100,200),(999,400)<|box_end|>"),
        ("qwen2_5_vl", '```json\n[\n\t{"bbox_2d": [34, 45, 336, 90], "label": "a cat"}\n]\n```'),
        ("qwen3_vl", '```json\n[\n\t{"bbox_2d": [100, 200, 1000, 400], "label": "a cat"}\n]\n```'),
        ("internvl", "<ref>a cat</ref><box>[[100, 200, 999, 400]]</box>"),
        ("paligemma", "<loc0205><loc0102><loc0409><loc1023> a cat"),
        ("florence2", "a cat<loc_100><loc_200><loc_999><loc_400>"),
        ("kosmos2", "<phrase> a cat</phrase><object><patch_index_0195><patch_index_0415></object>"),
        ("shikra", "[0.100,0.350,1.000,0.450]"),
        ("llava", "[0.10, 0.35, 1.00, 0.45]"),
    ],
)
def test_the_letter_of_each_format(name: BoxFormat, answer: str) -> None:
    """A box at the right edge of a picture twice as wide as high."""
    assert format_answer("a cat", [(20, 20, 200, 40)], (100, 200), name, seen=SEEN) == answer


def test_phrases_in_questions() -> None:
    assert {format_phrase("x", name) for name in ("qwen3_vl", "paligemma", "florence2", "shikra")} == {"x"}
    assert format_phrase("x", "qwen2_vl") == "<|object_ref_start|>x<|object_ref_end|>"
    assert format_phrase("x", "kosmos2") == "<phrase> x</phrase>"


def test_what_models_say_is_read() -> None:
    """With and without fences, tags and labels; a text without boxes has none."""
    size = (1000, 1000)

    def boxes(text: str, name: BoxFormat) -> list[Located]:
        return parse_boxes(text, size, name)

    box = (10.0, 20.0, 30.0, 40.0)
    assert boxes('{"bbox_2d": [10, 20, 30, 40]}', "qwen2_5_vl") == [Located(box=box)]
    assert boxes("The cat is at [10, 20, 30, 40].", "qwen3_vl") == [Located(box=box)]
    assert boxes("a cat(10,20),(30,40)", "qwen2_vl") == [Located(box=box)], "special tokens were skipped"
    assert boxes("[[10,20,30,40],[10,20,30,40]]", "internvl") == [Located(box=box)] * 2
    assert [one.phrase for one in boxes("<loc0001><loc0002><loc0003><loc0004><seg001> x ; rest", "paligemma")] == ["x"]
    assert [boxes("There is no cat in this picture.", name) for name in FORMATS] == [[]] * len(FORMATS)
    assert json.loads(format_answer('a "b"', [box], size, "qwen3_vl").strip("`json\n"))[0]["label"] == 'a "b"'
