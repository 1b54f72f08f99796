"""Writing a dataset again without its removed samples: units that follow each other become one, up to a size.

A unit is still a range of input rows and its ledger still tells of each of them. What is written waits under
`.build/compact`, unit by unit with its record, and takes its places once all of it is there (`publish`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdata import ledger
from mmdata.engine import commit, recover
from mmdata.engine.commit import UnitFiles
from mmdata.ledger import LedgerRow
from mmdata.shards import manifest as manifests
from mmdata.shards import tombstones
from mmdata.shards.dataset import Dataset
from mmdata.shards.manifest import Manifest
from mmdata.shards.storage import fsync_folder, write_atomic
from mmdata.shards.table import ShardEntry

AREA = "compact"
RECORDS = "compact/units"
FORGOTTEN = "forgotten"
"""The ledger's reason of a sample that was removed, `filtered`; its detail is the reason that was given, and when."""

Positions = npt.NDArray[np.int64]


def plan(entries: Sequence[ShardEntry], removed: Positions, size: int) -> list[list[ShardEntry]]:
    """The units in groups, each of which becomes one: as many as follow each other and hold at most `size` bytes
    together, by the share of their samples that stays. A unit that alone has more stays alone.

    >>> def unit(number, rows, size):
    ...     more = {"first": 0, "input_first": 0, "input_rows": 9, "ledger": "", "ledger_sha256": ""}
    ...     return ShardEntry(unit=number, rows=rows, shard_bytes=size, **more)
    >>> groups = plan([unit(0, 5, 50), unit(1, 5, 50), unit(2, 0, 0), unit(3, 5, 99)], np.empty(0, np.int64), 120)
    >>> [[entry.unit for entry in group] for group in groups]
    [[0, 1, 2], [3]]
    """
    groups: list[list[ShardEntry]] = []
    held = 0.0
    for entry in entries:
        stays = entry.rows - len(_within(removed, entry))
        left = entry.shard_bytes * stays / entry.rows if entry.rows else 0.0
        if not groups or (held and left and held + left > size):
            groups.append([])
            held = 0.0
        groups[-1].append(entry)
        held += left
    return groups


def unchanged(groups: Sequence[Sequence[ShardEntry]], removed: Positions) -> bool:
    """Whether there is nothing to do."""
    return not len(removed) and all(len(group) == 1 for group in groups)


def _within(removed: Positions, entry: ShardEntry) -> Positions:
    low, high = np.searchsorted(removed, [entry.first, entry.first + entry.rows])
    return removed[low:high]


def prepare(folder: Path, plan: dict[str, object]) -> set[int]:
    """Make room in the folder; returns the units that an interrupted compaction of the same plan has written."""
    mark = folder / ".build" / AREA / "plan.json"
    if mark.exists() and manifests.read_json(mark) != plan:
        shutil.rmtree(folder / ".build" / AREA)
    for name in ("shards", "index", "ledger", f".build/{RECORDS}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_atomic(mark, json.dumps(plan).encode())
    return {value.entry.unit for value in commit.records(folder, RECORDS)}


def write(dataset: Dataset, folder: Path, number: int, group: Sequence[ShardEntry], removed: Positions) -> None:
    """Write unit `number` of the compacted dataset into its folder: shard, index, ledger, and then its record."""
    why = {s.key: f"{s.reason} ({s.time})" for removal in dataset.removals() for s in removal.stones}
    gone = {dataset.row(int(at)).row for entry in group for at in _within(removed, entry)}
    rows = [
        _forgotten(row, why.get(row.key, "")) if row.row in gone else row
        for entry in group
        for row in ledger.read_rows(dataset.path / entry.ledger)
    ]
    files = UnitFiles(number=number, prefix=f"g{dataset.manifest.generation + 1:04d}-")
    first = group[0]
    if len(group) == 1 and not gone:
        entry, final = _again(dataset, folder, files, first, rows)
    else:
        kept = (item for entry in group for item in recover.stored(dataset, entry) if item.row not in gone)
        entry, final = commit.write_unit(folder, number, first.input_first, kept, rows, area=AREA, prefix=files.prefix)
    commit.record(folder, entry, final, area=RECORDS)


def _forgotten(row: LedgerRow, why: str) -> LedgerRow:
    return replace(row, state="filtered", reason=FORGOTTEN, detail=why[:500], step=None, shard=None, shard_row=None)


def _again(
    dataset: Dataset, folder: Path, files: UnitFiles, entry: ShardEntry, rows: list[LedgerRow]
) -> tuple[ShardEntry, list[LedgerRow]]:
    """A unit that loses nothing, under its new number: the same files by other names, but for the ledger."""
    changed: dict[str, Any] = {"unit": files.number, "first": 0, "ledger": files.ledger}
    if entry.shard is not None and entry.index is not None:
        for name, now in ((entry.shard, files.shard), (entry.index, files.index)):
            target = folder / commit.staged(now, AREA)
            target.unlink(missing_ok=True)
            _link(dataset.path / name, target)
        changed |= {"shard": files.shard, "index": files.index}
    places = {row.row: row.shard_row for row in rows if row.shard_row is not None}
    final, digest = commit.write_ledger(folder, files, rows, places, area=AREA)
    return replace(entry, **changed, ledger_sha256=digest), final


def _link(source: Path, target: Path) -> None:
    """One file by two names, or where the file system cannot, a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())


def publish(folder: Path) -> None:
    """Move what is written to its places, and let its records be those of the dataset. Repeating it is harmless."""
    build = folder / ".build"
    for area in (RECORDS, "units"):
        for value in commit.records(folder, area):
            commit.publish(folder, value.entry, area=AREA)
    if (build / RECORDS).exists():
        if (build / "units").exists():
            if (build / "units.old").exists():
                (build / "units").rmdir()  # an empty one, of a build that looked in meanwhile
            else:
                os.rename(build / "units", build / "units.old")
        os.rename(build / RECORDS, build / "units")
        fsync_folder(build)


def clean(folder: Path, manifest: Manifest) -> None:
    """Once the manifest is there: remove what it replaces, and the tombstones, whose samples are gone."""
    named = {name for entry in manifest.shards for name in (entry.shard, entry.index, entry.ledger) if name}
    for part in ("shards", "index", "ledger"):
        for path in (folder / part).iterdir():
            if f"{part}/{path.name}" not in named:
                path.unlink()
    for name in (tombstones.FOLDER, ".build/units.old", f".build/{AREA}"):
        shutil.rmtree(folder / name, ignore_errors=True)
    recover.end_publish(folder)
