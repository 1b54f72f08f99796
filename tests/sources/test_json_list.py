"""A JSON list, read a piece at a time: the same as reading it whole, and damage named by its line."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.errors import DataError
from mmdata.sources import _json_list

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(values=st.lists(VALUES, max_size=6), indent=st.sampled_from([None, 1]), piece=st.integers(1, 40), data=st.data())
def test_it_is_what_reading_it_whole_gives(values: list[Any], indent: int | None, piece: int, data: Any) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_json_list, "PIECE", piece)
        assert list(_json_list.items(io.StringIO(f" \n{text}\n"), "x")) == values
        with pytest.raises(DataError, match="source_unreadable: x: not a JSON list, line "):
            list(_json_list.items(io.StringIO(text[: data.draw(st.integers(0, len(text) - 1))]), "x"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a":\n 1}', "line 1: a list of samples is wanted"),
        ("", "line 1: a list of samples is wanted"),
        ('[{"a": 1}\n{"b": 2}]', "line 2: a comma is missing between two samples"),
        ('[{"a": 1},\n{"b": ,}, {"a": 2}]', "line 2: Expecting value"),
        ('[{"a": 1},\n{"b": "', "line 2: the file ends in this sample"),
        ('[{"a": 1},\n{"b": 2', "line 2: the file ends in this sample"),
        ('[{"a": 1}', "line 1: the file ends in the list"),
        ("[1]\n[2]", "line 2: there is more behind the list"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        list(_json_list.items(io.StringIO(text), "x"))


def test_items_before_the_damage_come_first_and_an_endless_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_json_list, "PIECE", 16)
    monkeypatch.setattr(_json_list, "LONGEST", 100)
    reading = _json_list.items(io.StringIO('[{"a": 1}, {"b": "' + "x" * 10_000), "x")
    assert next(reading) == {"a": 1}
    with pytest.raises(DataError, match="an item of more than 100 characters"):
        next(reading)
