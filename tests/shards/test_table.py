"""The table of shards: the same rows back, every changed byte told, and nothing read that is not asked for."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.errors import DataError
from mmdata.shards import manifest as manifests
from mmdata.shards import table as tables
from mmdata.shards.dataset import open_dataset
from mmdata.shards.table import ShardEntry, ShardTable
from tests.dataset_fixture import write_dataset


def entries(sizes: list[int]) -> list[ShardEntry]:
    """Units of so many samples, each of a tenth as many input rows again."""
    found: list[ShardEntry] = []
    first = input_first = 0
    for unit, rows in enumerate(sizes):
        digest = f"{unit:064x}"
        files = {
            "shard": f"shards/{unit:06d}.tar",
            "shard_bytes": 10240,
            "shard_sha256": digest,
            "index": f"index/{unit:06d}.arrow",
            "index_sha256": digest,
            "index_crc32c": unit % 2**32,
        }
        found.append(
            ShardEntry(
                unit=unit,
                first=first,
                rows=rows,
                input_first=input_first,
                input_rows=rows + 1,
                ledger=f"ledger/{unit:06d}.parquet",
                ledger_sha256=digest,
                **(files if rows else {}),  # type: ignore[arg-type]
            )
        )
        first, input_first = first + rows, input_first + rows + 1
    return found


@given(st.lists(st.integers(0, 3), max_size=12))
def test_units_come_back_and_positions_find_their_shard(sizes: list[int]) -> None:
    units = entries(sizes)
    table = ShardTable.of(units)
    full = [unit for unit in units if unit.rows]
    assert list(table) == units
    assert len(table) == len(units)
    assert table[: len(units)] == units
    assert [table.shard(number) for number in range(table.shards)] == full
    assert table.firsts.tolist() == [*(unit.first for unit in full), sum(sizes)]
    found = [table.find(position) for position in range(sum(sizes))]
    assert found == np.repeat(np.arange(len(full)), [unit.rows for unit in full]).tolist()
    assert list(pickle.loads(pickle.dumps(table))) == units
    assert tables.to_bytes(units, {}) == tables.to_bytes(list(table), {})


@pytest.mark.parametrize(("kind", "share"), [(pa.py_buffer, 1.5), (memoryview, 1)])
def test_every_flipped_bit_and_every_cut_is_told_or_harmless(kind: Callable[[bytes], Any], share: float) -> None:
    """Where a table still answers, it answers the truth. Arrow reads one; of the other the footer is not looked at."""
    units = entries([3, 0, 2, 4, 1])
    metadata = {"root_digest": "a"}
    data = tables.to_bytes(units, metadata)
    full = [unit for unit in units if unit.rows]
    told = 0
    for at in range(len(data)):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]):
            try:
                table = ShardTable(kind(changed), 4, metadata=metadata)
            except DataError:
                told += 1
                continue
            for number, unit in enumerate(full):
                try:
                    assert table.shard(number) == unit
                except DataError:
                    told += 1
    assert told > share * len(data)


def test_a_dataset_with_a_changed_table_yields_the_truth_or_nothing(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", samples=12, per_shard=5)
    truth = list(open_dataset(folder))
    path = folder / "shards.arrow"
    data = path.read_bytes()
    # Behind the rows Arrow's footer tells the schema again: it is read where the first one is not as we write it, and
    # `verify` reads it always (tests/test_verify.py).
    footer = len(data) - 10 - int.from_bytes(data[-10:-6], "little")
    told, opened = 0, 3 * len(range(0, footer, 19))
    for at in range(0, len(data), 19):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        for position in (0, 7, 11):
            try:
                dataset = open_dataset(folder)
                assert dataset[position] == truth[position]
                assert dataset.shard_firsts.tolist() == [0, 5, 10, 12]
            except DataError:
                told += 1
    assert told > opened / 5  # of these: each reads one row of three, and the first schema is told twice


def test_a_table_of_another_manifest_is_refused(tmp_path: Path) -> None:
    one, two = write_dataset(tmp_path / "a", samples=4), write_dataset(tmp_path / "b", samples=5)
    (one / "shards.arrow").write_bytes((two / "shards.arrow").read_bytes())
    with pytest.raises(DataError, match="table_other"):
        open_dataset(one)
    (one / "shards.arrow").unlink()
    with pytest.raises(DataError, match="table_missing"):
        open_dataset(one)


def test_an_older_manifest_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", samples=4)
    body = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**body, "version": 3, "shards": []}))
    with pytest.raises(DataError, match="version 3, this code reads 4; remove it and run the same build again"):
        open_dataset(folder)


def test_a_prefix_has_the_digest_that_the_dataset_had(tmp_path: Path) -> None:
    grown = open_dataset(write_dataset(tmp_path / "a", samples=40, per_shard=8)).manifest
    before = open_dataset(write_dataset(tmp_path / "b", samples=24, per_shard=8)).manifest
    assert grown.prefix_digest(3) == before.root_digest
    assert grown.prefix_digest(5) == grown.root_digest != before.root_digest


def test_opening_costs_the_same_at_any_number_of_shards(tmp_path: Path) -> None:
    """At 100 and at 30,000 shards: a fixed number of milliseconds, and no memory of the table's size."""

    def opening(count: int) -> float:
        folder = tmp_path / str(count)
        folder.mkdir()
        units = entries([10] * count)
        manifests.write(
            folder,
            manifests.Manifest(
                created_by="tests",
                spec={},
                spec_digest="",
                inputs=[],
                input_rows=units[-1].input_first + 11,
                samples=10 * count,
                counts={"ok": 10 * count},
                reasons={},
                shards=units,
                root_digest=manifests.root_digest(units),
            ),
        )
        before, best = pa.total_allocated_bytes(), 1.0
        for _ in range(9):
            start = time.process_time()
            dataset = open_dataset(folder)
            assert dataset.ref(10 * count - 1).shard == count - 1
            best = min(best, time.process_time() - start)
        assert pa.total_allocated_bytes() - before < 1 << 16
        return best

    few, many = opening(100), opening(30_000)
    assert many < 3 * few + 0.002, (few, many)
