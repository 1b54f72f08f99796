"""Repair of what is damaged, and of nothing else."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.decode.work import Work
from mmdata.steps.caption_clean import CaptionClean
from mmdata.types import Drop, Media, Origin, Sample, Text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("schÃ¶n &amp; gut", "schön & gut"),
        ("âœ” Donâ€™t", "✔ Don’t"),
        ("AT&amp;amp;T", "AT&T"),
        ("&#128512;&nbsp;x", "😀 x"),
        ("a\x00b\x07c", "abc"),
        ("\ufeffcat\r\n on\u2028mat ", "cat on mat"),
        ("cafe\u0301", "café"),
        ("x\ud83d\ude00y", "x😀y"),
        ("x\ud800y", "x\ufffdy"),
        ("\x1b[36;44mblue\x1b[0m", "blue"),
        ("<p>Two<br/>lines</p><P CLASS='x'>More</P>", "Two lines More"),
        ("bo<b>ld</b> <a href='http://x?a=1&b=2'>link</a>", "bold link"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("a<!-- hidden --><script>var x = '<p>';</script>b", "a b"),
    ],
)
def test_repairs(text: str, clean: str) -> None:
    assert CaptionClean().clean(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "It’s a “quoted” — dash… and ﬁne ligature",
        "ＬＯＵＤ！你好，世界。",
        "I <3 you, 1 < 2 > 0 & more",
        "<image> and <unk> and <lora:x:1>",
        "Größe 10 € ¼ naïve Ãgypten",
        "नमस्ते 👩\u200d👩\u200d👧 مرحبا",
        "A cat.",
        "R&D; Q&A",
    ],
)
def test_what_is_not_damaged_stays(text: str) -> None:
    assert CaptionClean().clean(text) == text


# All the characters that markup, entities and mojibake are made of.
nasty = st.lists(
    st.sampled_from(
        [*"ab<>&;#/ !-\n\t\u00a0", "amp", "lt", "gt", "br", "Ã¶", "â€™", "<b>", "</p>", "<!--", "-->", "é"]
    ),
    max_size=14,
).map("".join)


@given(nasty | st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    for step in (CaptionClean(), CaptionClean(strip_html=False, collapse_whitespace=False)):
        once = step.clean(text)
        assert step.clean(once) == once
        assert unicodedata.is_normalized("NFC", once)
        once.encode()


def test_options() -> None:
    assert CaptionClean(strip_html=False).clean("<b>a</b>  b") == "<b>a</b> b"
    assert CaptionClean(collapse_whitespace=False).clean(" a  b\nc") == " a  b\nc"


def apply(*parts: Text | Media) -> Sample | Drop:
    return CaptionClean().apply(Sample(key="a", parts=parts, origin=Origin(uri="t", row=0)), Work())


def test_only_captions_change_and_order_stays() -> None:
    media, question = Media(kind="image"), Text(text="a &amp; b", role="user")
    result = apply(Text(text="a &amp; b", train=False), media, question)
    assert isinstance(result, Sample)
    assert result.parts == (Text(text="a & b", train=False), media, question)


@pytest.mark.parametrize("text", ["", "  ", "<br>", "<!-- x -->", "\x00"])
def test_nothing_left(text: str) -> None:
    result = apply(Text(text=text))
    assert isinstance(result, Drop)
    assert result.reason == "caption_empty"
    kept = apply(Text(text=text), Text(text="cat"))
    assert isinstance(kept, Sample)
    assert kept.parts == (Text(text="cat"),)
    assert isinstance(apply(Media(kind="image")), Sample)


def test_a_long_caption_takes_no_quadratic_time() -> None:
    start = time.perf_counter()
    CaptionClean().clean("<a " * 20_000)
    CaptionClean().clean("<a" + " " * 60_000)
    CaptionClean().clean("<!-- " * 4_000)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("text", ["x<b and b>c", "if a<b and c>d", "0<p and q>1", "a < b > c", "1<s<2"])
def test_comparisons_of_letters_are_no_tags(text: str) -> None:
    assert CaptionClean().clean(text) == text


def test_tags_of_one_letter() -> None:
    tags = "<p class=x>A</p >, <a href='u' title>b</a><b/>, <i>c</i> <S>d</S>"
    assert CaptionClean().clean(tags) == "A , b, c d"
