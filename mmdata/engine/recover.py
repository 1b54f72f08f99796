"""`--retry transient`: do the rows that failed transiently once more, and rewrite only their units.

Rewritten units wait under `.build/retry` until all are done; then they replace the old ones in one short
step that a kill cannot leave half done: while `.build/publish.json` exists readers refuse the dataset, and
the next run completes it. What was committed before wins over what is recovered.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmdata import ledger
from mmdata.engine import commit
from mmdata.engine.commit import Kept
from mmdata.engine.local import Finished
from mmdata.ledger import LedgerRow
from mmdata.shards import manifest as manifests
from mmdata.shards.dataset import Dataset
from mmdata.shards.manifest import Manifest
from mmdata.shards.storage import fsync_folder, write_atomic
from mmdata.shards.table import ShardEntry

AREA = "retry"
RECORDS = "retry/units"
COMPACT = "compact"
"""Whose publication a mark may be of; without a name it is that of a retry or an append."""


def transient_rows(folder: Path, manifest: Manifest) -> dict[int, list[int]]:
    """Input rows that ended as `failed_transient`, by unit."""
    wanted: dict[int, list[int]] = {}
    for entry in manifest.shards:
        rows = [row.row for row in ledger.read_rows(folder / entry.ledger) if row.state == "failed_transient"]
        if rows:
            wanted[entry.unit] = rows
    return wanted


def prepare(folder: Path, generation: int) -> set[int]:
    """Make room for rewritten units; returns those that an interrupted retry of this generation has done."""
    mark = folder / ".build" / AREA / "generation.json"
    if mark.exists() and manifests.read_json(mark) != generation:
        shutil.rmtree(folder / ".build" / AREA)
    (folder / ".build" / RECORDS).mkdir(parents=True, exist_ok=True)
    write_atomic(mark, json.dumps(generation).encode())
    done = {value.entry.unit for value in commit.records(folder, RECORDS)}
    for path in (folder / ".build" / AREA).glob("*.part"):
        if not any(f"{unit:06d}" in path.name for unit in done):
            path.unlink()
    return done


def rewrite(folder: Path, dataset: Dataset, finished: Finished) -> None:
    """Write one unit again: its old samples, read back and verified, and the recovered ones, in input order."""
    entry = next(entry for entry in dataset.manifest.shards if entry.unit == finished.number)
    fresh = {row.row: row for row in finished.rows}
    before = ledger.read_rows(folder / entry.ledger)
    rows = [_again(old, fresh[old.row]) if old.row in fresh else old for old in before]
    kept = _merge(stored(dataset, entry), finished.kept)
    prefix = commit.UnitFiles.of(entry).prefix
    written, final = commit.write_unit(folder, finished.number, entry.input_first, kept, rows, area=AREA, prefix=prefix)
    commit.record(folder, written, final, area=RECORDS)


def _again(old: LedgerRow, new: LedgerRow) -> LedgerRow:
    """The new fate of a row, with the attempts of both tries."""
    values = {name: getattr(new, name) for name in LedgerRow.__slots__}
    return LedgerRow(**(values | {"attempts": old.attempts + new.attempts}))


def stored(dataset: Dataset, entry: ShardEntry) -> Iterator[Kept]:
    """The samples of a unit as they were written, read back and verified."""
    for position in range(entry.first, entry.first + entry.rows):
        row = dataset.row(position)
        yield Kept(row=row.row, sample=dataset.sample(position, stored=True), signatures=row.signatures)


def _merge(old: Iterator[Kept], new: Iterator[Kept]) -> Iterator[Kept]:
    """Two row-sorted runs as one, holding one sample of each."""
    left, right = next(old, None), next(new, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.row < right.row):
            assert left is not None
            yield left
            left = next(old, None)
        else:
            yield right
            right = next(new, None)


def begin_publish(folder: Path, generation: int, run: dict[str, Any], *, by: str = "") -> None:
    """From here on the rewritten units count, whatever happens: see `publish`."""
    mark = {"generation": generation, "run": run, "by": by}
    write_atomic(folder / ".build" / "publish.json", json.dumps(mark, sort_keys=True).encode())


def publishing(folder: Path) -> dict[str, Any] | None:
    """The mark of a publication that has begun, or None."""
    path = folder / ".build" / "publish.json"
    value: dict[str, Any] | None = manifests.read_json(path) if path.exists() else None
    return value


def publish(folder: Path) -> None:
    """Move rewritten units and their records to their places. Repeating it is harmless."""
    for value in commit.records(folder, RECORDS):
        commit.publish(folder, value.entry, area=AREA)
        name = f"{value.entry.unit:06d}.json"
        os.replace(folder / ".build" / RECORDS / name, folder / ".build" / "units" / name)
        fsync_folder(folder / ".build" / "units")


def end_publish(folder: Path) -> None:
    """After the new manifest: readers may come back."""
    (folder / ".build" / "publish.json").unlink()
    fsync_folder(folder / ".build")
    shutil.rmtree(folder / ".build" / AREA, ignore_errors=True)
