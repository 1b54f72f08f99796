"""Gopher's repetition rules, against counting character by character."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.steps.repetition import Repetition, covered, duplicates
from mmdata.types import Drop
from tests.steps.given import apply, build, record

PROSE = (
    "The harbour was quiet in the morning. A few boats came back with their catch, and gulls circled above the pier. "
    "By noon tourists had filled every bench along the promenade, eating ice cream and taking pictures of each other."
)


def test_a_build(tmp_path: Path) -> None:
    texts = [PROSE, f"{PROSE}\n\n{PROSE}", "buy now " * 30, "\n".join([*"abcdefg", *"abcd"]), ""]
    built = build(tmp_path, [record(("document", text)) for text in texts], [{"kind": "repetition"}])
    assert built.reasons == ["", "repetition", "repetition", "repetition", ""]
    rules = [row.detail.split(":")[0] for row in built.ledger]
    assert rules == ["", "lines", "most frequent 2 words", "lines", ""]


words = st.lists(st.sampled_from(["a", "bb", "ccc", "d"]), min_size=1, max_size=30)


@given(words, st.integers(1, 6))
def test_covered_by_brute_force(text: list[str], n: int) -> None:
    runs = [text[at : at + n] for at in range(len(text) - n + 1)]
    marks = [
        any(
            runs[start] == other
            for start in range(max(0, at - n + 1), min(at + 1, len(runs)))
            for other in _others(runs, start)
        )
        for at in range(len(text))
    ]
    expected = sum(len(word) for word, mark in zip(text, marks, strict=True) if mark) / sum(map(len, text))
    assert covered(text, n, top=False) == pytest.approx(expected)
    assert covered(text, n, top=True) <= covered(text, n, top=False) + 1e-12


def _others(runs: list[list[str]], start: int) -> list[list[str]]:
    return runs[:start] + runs[start + 1 :]


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=12))
def test_duplicates_by_brute_force(pieces: list[str]) -> None:
    again = [piece for at, piece in enumerate(pieces) if piece in pieces[:at]]
    share, chars = duplicates(pieces)
    assert share == (len(again) / len(pieces) if pieces else 0)
    assert chars == (sum(map(len, again)) / sum(map(len, pieces)) if pieces else 0)


def test_each_rule_is_switched_off_by_itself() -> None:
    text = "one two three four five\n" * 10
    off = {"max_lines": None, "max_line_chars": None, "max_top": {}, "max_duplicate": {}}
    assert not isinstance(apply(Repetition(**off), text), Drop)
    for name, rule in (
        ("max_lines", "lines"),
        ("max_line_chars", "characters in duplicate lines"),
        ("max_top", "most frequent 2 words"),
        ("max_duplicate", "repeated 5 words"),
    ):
        kept = {key: value for key, value in off.items() if key != name}
        drop = apply(Repetition(**kept), text)
        assert isinstance(drop, Drop)
        assert drop.detail.startswith(rule)
    assert not isinstance(apply(Repetition(min_words=51), text), Drop)
