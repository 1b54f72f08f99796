"""Choosing texts, changing them, and lists in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdata.steps._texts import chosen, digest, document, lines, rewritten
from mmdata.types import Drop, Media, Origin, Sample, Text

SAMPLE = Sample(
    key="k",
    parts=(
        Text(text="q", role="user"),
        Media(kind="image"),
        Text(text="a", role="assistant"),
        Text(text="b", role="user"),
    ),
    origin=Origin(uri="t", row=0),
)


def test_roles() -> None:
    assert chosen(SAMPLE, ()) == ["q", "a", "b"]
    assert chosen(SAMPLE, ("user",)) == ["q", "b"]
    assert document(SAMPLE, ("user", "assistant")) == "q\n\na\n\nb"


def test_rewriting() -> None:
    changed = rewritten(SAMPLE, ("user",), lambda text: "" if text == "q" else text.upper(), empty="gone")
    assert isinstance(changed, Sample)
    assert [part.text if isinstance(part, Text) else part.kind for part in changed.parts] == ["image", "a", "B"]
    assert rewritten(SAMPLE, ("user",), lambda _: " ", empty="gone") == Drop(
        reason="gone", detail="nothing is left of the text"
    )
    assert rewritten(SAMPLE, ("caption",), lambda _: "", empty="gone") == SAMPLE


def test_lists(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("# a comment\n\n  one two \nthree\n")
    assert lines(str(file)) == ("one two", "three")
    before = digest(str(file))
    file.write_text("three\n")
    assert digest(str(file)) != before
    with pytest.raises(ValueError, match="cannot be read"):
        digest(str(tmp_path / "absent"))
