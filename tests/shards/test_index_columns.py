"""Columns that grow row by row give the bytes that rows give at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mmdata.shards import index as indexes
from mmdata.shards.index import Index, IndexRow, Part
from mmdata.shards.index_columns import IndexColumns


def rows(seed: int, count: int) -> list[IndexRow]:
    """Rows of odd shapes and plain ones, drawn by chance."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        parts = []
        for _ in range(int(draw.integers(0, 4))):
            place = (int(draw.integers(1 << 40)), int(draw.integers(1 << 30)), int(draw.integers(1 << 32)))
            pixels: dict[str, Any] = {"height": int(draw.integers(1, 9000)), "width": int(draw.integers(1, 9000))}
            parts.append(
                [
                    Part("jpg", "image", *place, format="jpeg", mode="RGB", frames=1, verified="header", **pixels),
                    Part("50%.png", "image", *place, None, format="png", mode="L", height=7),
                    Part("txt", "text", *place, "caption", True),
                    Part("", "text", 0, 0, 9, "user", False, inline="ünï %d \n".encode() * int(draw.integers(3))),
                    Part("mp4", "video", *place, fps=29.97, seconds=1.5, samples=1 << 40, packets=b"\x00p", **pixels),
                    Part("gif", "image", *place, marks=[("a", (1, 2)), ("b", ())], sha256="00" * 32, **pixels),
                    Part("json", "meta", *place, format="foreign"),
                ][int(draw.integers(7))]
            )
        key = f"名/{number}%s\x07" if number % 7 == 3 else f"{number:09d}"
        made.append(IndexRow(key=key, row=100 + number, origin="/a b/%d.tar", origin_row=number, parts=tuple(parts)))
    return made


@pytest.mark.parametrize(("seed", "count"), [(seed, count) for seed, count in enumerate([0, 1, 2, 3, 9, 40, 300])])
def test_the_bytes_are_those_of_rows(seed: int, count: int) -> None:
    made = rows(seed, count)
    columns = IndexColumns("/a b/%d.tar")
    for row in made:
        columns.add(row)
    assert len(columns) == count
    assert columns.to_bytes() == indexes.to_bytes(made)


def test_without_sums_all_else_is_the_same(tmp_path: object) -> None:
    from pathlib import Path

    made = rows(3, 50)
    columns = IndexColumns("/a b/%d.tar", sums=False)
    for row in made:
        columns.add(row)
    path = Path(str(tmp_path)) / "i.arrow"
    path.write_bytes(columns.to_bytes())
    index = Index(path)
    assert not index.sums
    assert index.column("crc32c").null_count == 50
    assert pa.types.is_uint32(index.column("crc32c").type)
    path.write_bytes(indexes.to_bytes(made))
    for at, row in enumerate(Index(path).rows()):
        bare = tuple(part._replace(crc32c=None) for part in row.parts)
        assert index.row(at).parts == bare
