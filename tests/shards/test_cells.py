"""Cells are what Arrow's own `to_pylist` gives, and damage never leads out of a buffer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.shards.cells import cell
from mmdata.shards.index import SCHEMA

TEXTS = st.text(max_size=5)
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.uint32(): st.integers(0, 2**32 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): TEXTS,
    pa.binary(): st.binary(max_size=5),
    pa.list_(pa.int32()): st.lists(st.integers(0, 9), max_size=3),
    pa.map_(pa.string(), pa.binary()): st.lists(st.tuples(TEXTS, st.binary(max_size=3)), max_size=3),
    pa.map_(pa.string(), pa.list_(pa.int32())): st.lists(
        st.tuples(TEXTS, st.lists(st.integers(0, 9), max_size=3)), max_size=3
    ),
    pa.list_(pa.struct([("a", pa.bool_()), ("b", pa.string())])): st.lists(
        st.fixed_dictionaries({"a": st.none() | st.booleans(), "b": st.none() | TEXTS}), max_size=3
    ),
}


def buffers(array: pa.Array) -> Iterator[Any]:
    return iter([buffer or b"" for buffer in array.buffers()])


def tuples(value: Any) -> Any:
    """A struct as the tuple of its values."""
    if isinstance(value, dict):
        return tuple(map(tuples, value.values()))
    return [tuples(each) for each in value] if isinstance(value, list) else value


def test_every_type_of_an_index_is_known() -> None:
    array = pa.RecordBatch.from_pylist([], SCHEMA).columns
    for field, column in zip(SCHEMA, array, strict=True):
        cell(field.type, buffers(column))
    with pytest.raises(TypeError, match="large_string"):
        cell(pa.large_string(), iter([b""] * 3))


@pytest.mark.parametrize("kind", VALUES, ids=str)
@given(data=st.data())
def test_cells_are_what_arrow_has(kind: pa.DataType, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | VALUES[kind], max_size=20))
    array = pa.array(values, kind)
    take = cell(kind, buffers(array))
    assert [take(at) for at in range(len(array))] == tuples(array.to_pylist())


def test_damage_leads_out_of_no_buffer() -> None:
    draw = random.Random(5)
    kind = pa.list_(pa.struct([("a", pa.string()), ("b", pa.int64())]))
    array = pa.array([[{"a": "x" * at, "b": at}] * at for at in range(20)], kind)
    for _ in range(300):
        parts = [bytearray(buffer or b"") for buffer in array.buffers()]
        offsets = parts[draw.choice([1, 4])]
        offsets[draw.randrange(len(offsets))] = draw.randrange(1, 256)
        take = cell(kind, iter(parts))
        for at in range(20):
            try:
                found = take(at)
            except (IndexError, ValueError):
                continue
            assert all(isinstance(text, str) and isinstance(number, int) for text, number in found)
