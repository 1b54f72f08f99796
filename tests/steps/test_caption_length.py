"""Counting characters and words in the world's scripts."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmdata.decode.work import Work
from mmdata.steps.caption_length import CaptionLength, characters, words
from mmdata.types import Drop, Origin, Sample, Text


def apply(step: CaptionLength, *captions: str) -> Sample | Drop:
    parts = (*(Text(text=caption) for caption in captions), Text(text="not a caption", role="user"))
    return step.apply(Sample(key="a", parts=parts, origin=Origin(uri="t", row=0)), Work())


@pytest.mark.parametrize(
    ("text", "chars", "count"),
    [
        ("", 0, 0),
        (" \t\n\u3000", 0, 0),
        ("\u200b\u200d\ufeff", 0, 0),
        ("It's a dog-friendly café.", 25, 4),
        ("e\u0301te\u0301", 3, 1),
        ("नमस्ते दुनिया", 10, 2),
        ("Привет, мир!", 12, 2),
        ("안녕하세요 세계", 8, 2),
        ("こんにちは、世界", 8, 7),
        ("カラー・テレビ", 7, 6),
        ("我爱你 2026", 8, 4),
        ("👩\u200d👩\u200d👧", 3, 0),
        ("- -- ---", 8, 0),
    ],
)
def test_counts(text: str, chars: int, count: int) -> None:
    assert (characters(text), words(text)) == (chars, count)


@given(st.text())
def test_the_form_does_not_matter(text: str) -> None:
    assert characters(unicodedata.normalize("NFD", text)) == characters(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    ("bounds", "caption", "detail"),
    [
        ({}, "", "0 characters, fewer than 1"),
        ({}, "\u200b", "0 characters, fewer than 1"),
        ({"min_chars": 6}, "A cat", "5 characters, fewer than 6"),
        ({"max_chars": 4}, "A cat", "5 characters, more than 4"),
        ({"min_words": 3}, "A cat", "2 words, fewer than 3"),
        ({"max_words": 1}, "A cat", "2 words, more than 1"),
        ({"min_chars": 5, "max_chars": 5, "min_words": 2, "max_words": 2}, "A cat", None),
        ({}, "x", None),
    ],
)
def test_bounds(bounds: dict[str, int], caption: str, detail: str | None) -> None:
    result = apply(CaptionLength(**bounds), caption)
    if detail is None:
        assert isinstance(result, Sample)
    else:
        assert result == Drop(reason="caption_length", detail=detail)


def test_no_caption_and_several() -> None:
    assert apply(CaptionLength()) == Drop(reason="caption_length", detail="no caption")
    assert isinstance(apply(CaptionLength(max_words=1), "one", "two words"), Drop)
    assert isinstance(apply(CaptionLength(max_words=2), "one", "two words"), Sample)


@pytest.mark.parametrize("bounds", [{"min_chars": 3, "max_chars": 2}, {"min_words": 3, "max_words": 2}])
def test_bounds_that_nothing_meets(bounds: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="nothing would be kept"):
        CaptionLength(**bounds)
