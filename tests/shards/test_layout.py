"""Where columns lie: just where Arrow says, and nothing said of files that Arrow must read."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pytest

from mmdata.shards import index as indexes
from mmdata.shards import layout
from mmdata.shards.dataset import open_dataset
from mmdata.shards.index import Index
from tests.dataset_fixture import write_dataset


def written(schema: pa.Schema, *batches: pa.RecordBatch, compression: str | None = None) -> memoryview:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return memoryview(sink.getvalue())


NUMBERS = pa.record_batch({"a": pa.array([1, None, 3]), "b": pa.array(["x", "yz", None])})


def test_each_buffer_is_the_one_that_arrow_has(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", samples=7, per_shard=4)
    for path in (folder / "index").iterdir():
        data = layout.contents(path).data
        found = layout.buffers(data, layout.head(indexes.SCHEMA))
        batch = pa.ipc.open_file(pa.py_buffer(data)).get_batch(0)
        assert found is not None
        assert found.rows == batch.num_rows
        expected = [bytes(buffer or b"") for column in batch.columns for buffer in column.buffers()]
        assert [bytes(found[number]) for number in range(len(expected))] == expected
        with pytest.raises(IndexError):
            found[len(expected)]


def test_what_is_otherwise_is_left_to_arrow() -> None:
    head = layout.head(NUMBERS.schema)
    assert layout.buffers(written(NUMBERS.schema, NUMBERS), head) is not None
    assert layout.buffers(written(NUMBERS.schema), head) is None
    assert layout.buffers(written(NUMBERS.schema, NUMBERS, NUMBERS), head) is None
    assert layout.buffers(written(NUMBERS.schema, NUMBERS, compression="zstd"), head) is None
    assert layout.buffers(written(indexes.SCHEMA), head) is None
    assert layout.buffers(memoryview(b""), head) is None


def test_no_changed_byte_leads_out_of_the_file() -> None:
    data, head = bytes(written(NUMBERS.schema, NUMBERS)), layout.head(NUMBERS.schema)
    others = 0
    for at in range(len(data)):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]):
            found = layout.buffers(memoryview(changed), head)
            if found is None:
                others += 1
                continue
            for number in range(5):
                try:
                    assert len(found[number]) <= len(changed)
                except (ValueError, IndexError):
                    others += 1
    assert others > len(data)


def test_an_index_with_a_checksum_is_as_the_one_that_arrow_has_looked_at(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path / "d", samples=6))
    entry = dataset.shard(0)
    path = dataset.path / (entry.index or "")
    quick, looked_at = Index(path, crc32c=entry.index_crc32c), Index(path)
    assert (len(quick), quick.sums, quick.bytes) == (len(looked_at), looked_at.sums, looked_at.bytes)
    one, two = quick.places(), looked_at.places()
    for name in ("key_ends", "firsts", "name_ends", "offsets", "sizes", "crcs"):
        assert getattr(one, name).tolist() == getattr(two, name).tolist()
    assert (bytes(one.key_bytes), one.name_bytes) == (bytes(two.key_bytes), two.name_bytes)
    assert quick.rows() == looked_at.rows()
