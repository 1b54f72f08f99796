"""Columns equal pyarrow's own, and are written as the same bytes."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pytest

from mmdata.arrays import column

VALUES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.int32(), [1, None, -(2**31)] * 5),
    (pa.int64(), [2**62, -3]),
    (pa.uint32(), [2**32 - 1, None]),
    (pa.float64(), [0.5, None, float("inf")]),
    (pa.bool_(), [True, None, False, True] * 9),
    (pa.string(), ["", "naïve 名前", None, "a" * 300]),
    (pa.binary(3), [b"abc", None, b"\x00\x01\x02"]),
    (pa.binary(), [b"", None, b"\xff\x00"]),
]


def written(array: pa.Array) -> bytes:
    sink = io.BytesIO()
    batch = pa.record_batch([array], names=["x"])
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


@pytest.mark.parametrize(("type", "values"), VALUES)
def test_columns_are_pyarrows(type: pa.DataType, values: list[Any]) -> None:
    some = [value for value in values if value is not None]
    for each in (values, some, [], [None] * 11, values[:1]):
        array = column(each, type)
        array.validate(full=True)
        assert array.to_pylist() == each
        assert written(array) == written(pa.array(each, type))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError):
        column([2**40], pa.int32())
    with pytest.raises((TypeError, AttributeError)):
        column([1.5], pa.string())
