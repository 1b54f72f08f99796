"""`where` over metadata, facts and the caption."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mmdata.decode.work import Work
from mmdata.errors import DataError
from mmdata.steps.where import Where
from mmdata.types import Drop, Media, Origin, Sample, Text


def sample(meta: dict[str, Any] | None = None, **facts: Any) -> Sample:
    parts = (Media(kind="image", **facts), Text(text="A cat"), Text(text="another"))
    return Sample(key="a", parts=parts, meta=meta or {}, origin=Origin(uri="t", row=0))


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("WIDTH >= 256 and similarity > 0.3", True),
        ("width * height > 100", True),
        ("format == 'png' and mode == 'RGB' and frames == 1", True),
        ("seconds is None", True),
        ("caption == 'A cat' and len(caption) == 5", True),
        ("width > WIDTH", False),
        ("absent > 1", False),
        ("is_null(absent)", True),
        # Metadata wins over a fact of the same name.
        ("height == 7", True),
    ],
)
def test_names(expression: str, kept: bool) -> None:
    given = sample(
        {"WIDTH": "300", "similarity": 0.31, "height": 7}, height=20, width=30, format="png", mode="RGB", frames=1
    )
    result = Where(expression=expression).apply(given, Work())
    assert result is given if kept else isinstance(result, Drop)


def test_the_drop_tells_a_misspelt_name() -> None:
    result = Where(expression="WIDHT > 1").apply(sample({"WIDTH": 3}), Work())
    assert result == Drop(reason="where", detail="WIDHT > 1 (no WIDHT; did you mean WIDTH?)")


def test_a_sample_without_media_or_text() -> None:
    bare = Sample(key="a", parts=(), origin=Origin(uri="t", row=0))
    assert Where(expression="width is None and caption is None").apply(bare, Work()) is bare


def test_a_wrong_type_is_the_datas_fault() -> None:
    with pytest.raises(DataError, match="where_type: tags is of type list"):
        Where(expression="tags == 'a'").apply(sample({"tags": ["a"]}), Work())


def test_a_wrong_expression_is_the_specs_fault() -> None:
    with pytest.raises(ValidationError, match="did you mean 'len'"):
        Where(expression="lenght(caption) > 2")
