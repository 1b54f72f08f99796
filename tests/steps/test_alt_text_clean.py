"""What each rule takes out, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.steps.alt_text_clean import RULES, AltTextClean
from tests.steps.given import build, record

CASES = [
    ("url", "A cat https://a.org/cat.jpg?x=1", "A cat"),
    ("extension", "old town hall.JPEG", "old town hall"),
    ("separators", "red_sports-car", "red sports car"),
    ("counter", "A cat (3/12)", "A cat"),
    ("counter", "A cat - Image 3 of 12", "A cat"),
    ("counter", "Photo 1 of 2: a cat", "a cat"),
    ("size", "A cat, 1920x1080 px", "A cat"),
    ("prefix", "Photo of a cat", "a cat"),
    ("prefix", "Alt text: a cat", "a cat"),
    ("credit", "A cat © Ann Example 2019", "A cat"),
    ("credit", "A cat. Photo credit: Ann", "A cat."),
    ("credit", "A cat - Shutterstock", "A cat"),
    ("site", "A cat | The Daily Cat", "A cat"),
]


@pytest.mark.parametrize(("rule", "text", "cleaned"), CASES)
def test_rules(rule: str, text: str, cleaned: str) -> None:
    assert AltTextClean(rules=(rule,)).clean(text) == cleaned  # type: ignore[arg-type]
    rest = tuple(other for other in RULES if other != rule)
    assert AltTextClean().clean(text) == cleaned
    assert AltTextClean(rules=rest).clean(text) != cleaned, "no other rule does it"


@pytest.mark.parametrize(
    "text",
    ["A cat of 3", "a well-known red-brick house", "The picture shows", "Half of a 2 x 4 plank", "x@y_z", "9/11"],
)
def test_left_alone(text: str) -> None:
    assert AltTextClean(rules=tuple(rule for rule in RULES if rule != "counter")).clean(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "London Olympic 2012",  # there is no `pic` in it
        "Topic 12",
        "Chapter 3 of 5",
        "on 9/11",
        "Blood pressure, 120/80",
        "credit card on a table",
        "The source of the Nile",
        "Resource of the world",
        "source code editor",
        "Copyright law in France",
        "Section (c) of the law",
        "A stock photograph room",
        "painting 30x40 cm on canvas",
        *("T-shirt", "x-ray", "C++", "2-1"),
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert AltTextClean().clean(text) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A cat (c) 2019 Ann", "A cat"),
        ("A cat, photo courtesy of Ann", "A cat"),
        ("A cat. Source: a.org", "A cat."),
        ("A cat. Photo credit Ann Example", "A cat."),
        ("A cat Royalty Free Stock Photo", "A cat"),
        ("A cat, Alamy Stock Photo 12345", "A cat"),
        ("the 1920x1080 screen", "the screen"),
        ("jean-claude-van-damme", "jean claude van damme"),
    ],
)
def test_credits_and_names(text: str, cleaned: str) -> None:
    assert AltTextClean().clean(text) == cleaned


@given(st.lists(st.sampled_from([text for _, text, _ in CASES]), max_size=3).map(" ".join))
def test_again_changes_nothing(text: str) -> None:
    clean = AltTextClean().clean
    assert clean(clean(text)) == clean(text)


def test_a_build(tmp_path: Path) -> None:
    records = [record("Photo of a cat | Cats"), record("https://a.org/b.jpg"), record(("user", "Photo of a cat"))]
    built = build(tmp_path, records, [{"kind": "alt_text_clean"}])
    assert built.reasons == ["", "alt_text_empty", ""]
    assert [sample.texts[0].text for sample in built.samples] == ["a cat", "Photo of a cat"]
