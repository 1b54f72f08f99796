"""The metadata by which Megatron-Energon reads our shards where they lie: `.nv-meta` and a `.tar.idx` beside each tar.

They are those of `energon prepare` (7.4: flavors/webdataset/prepare.py, itar.py, indexing.py), made from our index
instead of from the tars, which are not read.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmdata.errors import DataError
from mmdata.shards.dataset import Dataset
from mmdata.shards.index import Index, IndexRow, Part
from mmdata.shards.storage import write_atomic
from mmdata.shards.table import ShardEntry
from mmdata.shards.tar import BLOCK

FOLDER = ".nv-meta"
LIKE = "7.4.1"
"""The version of Energon whose files these are."""


def write(dataset: Dataset, *, told: Callable[[int], None]) -> None:
    """Write the metadata into the dataset's folder.

    All shards are of the split `train`. Where every sample is one picture and one caption, `dataset.yaml` makes them
    Energon's `CaptioningSample`; everything else is read as crude samples, for a cooker of the user's. `told` hears of
    each number of samples done.

    Raises DataError where samples have been removed (their bytes are still in the shards, and Energon would read them)
    and for adopted tars, which `energon prepare` is for.
    """
    if len(dataset.masked()):
        remedy = "python -m mmdata.compact writes it without them"
        raise DataError("removed_samples", f"{dataset.path}: Energon would read removed samples; {remedy}")
    folder = dataset.path / FOLDER
    folder.mkdir(exist_ok=True)
    database = folder / "index.sqlite"
    writing = folder / f".{database.name}.writing"
    writing.unlink(missing_ok=True)
    alike: set[tuple[str, ...]] = set()
    counts: dict[str, int] = {}
    with sqlite3.connect(writing) as connection:
        _tables(connection)
        for entry in dataset.manifest.shards:
            if not entry.rows:
                continue
            path = Path(entry.shard or "")
            if path.is_absolute() or "://" in str(path) or path.suffix != ".tar":
                raise DataError("shard_foreign", f"{path} lies outside the dataset; use `energon prepare` on it")
            listed = _rows(dataset.path, entry)
            write_atomic((dataset.path / path).with_suffix(".tar.idx"), _offsets(listed).tobytes())
            _insert(connection, len(counts), listed)
            alike |= {
                tuple(sorted(f"{part.kind} {part.role or ''} {part.name}" for part in members)) for _, members in listed
            }
            counts[str(path)] = entry.rows
            told(entry.rows)
        _indexes(connection)
    connection.close()
    writing.rename(database)
    name = str(uuid.uuid5(uuid.NAMESPACE_OID, dataset.manifest.root_digest))
    write_atomic(folder / "index.uuid", name.encode())
    splits = {"split_parts": {"train": list(counts), "val": [], "test": []}, "exclude": []}
    write_atomic(folder / "split.yaml", yaml.safe_dump(splits, sort_keys=False).encode())
    write_atomic(folder / "dataset.yaml", yaml.safe_dump(_described(alike), sort_keys=False).encode())
    info = {"energon_version": LIKE, "shard_counts": counts}
    write_atomic(folder / ".info.json", json.dumps(info, indent=2).encode())


def problems(folder: Path, entry: ShardEntry) -> Iterator[str]:
    """What is wrong with the `.tar.idx` of a shard, where there is one."""
    if not entry.shard or Path(entry.shard).is_absolute() or "://" in entry.shard:
        return
    path = (folder / entry.shard).with_suffix(".tar.idx")
    if not path.is_file():
        return
    try:
        same = path.read_bytes() == _offsets(_rows(folder, entry)).tobytes()
    except DataError:  # of the index, which has problems of its own
        return
    if not same:
        yield f"energon_index: {path} is not that of its shard; export it again"


def _rows(folder: Path, entry: ShardEntry) -> list[tuple[IndexRow, list[Part]]]:
    """Each sample and its members in the order of the tar."""
    index = Index(folder / (entry.index or ""), crc32c=entry.index_crc32c)
    return [
        (row, sorted((part for part in row.parts if part.name), key=lambda part: part.offset)) for row in index.rows()
    ]


def _offsets(listed: list[tuple[IndexRow, list[Part]]]) -> np.ndarray:
    """u64 [samples + 1]: where the header of each sample's first member begins, and where the last one ends."""
    firsts = [members[0].offset - BLOCK for _, members in listed]
    return np.array([*firsts, _end(listed[-1][1])], "<u8")


def _end(members: list[Part]) -> int:
    last = members[-1]
    return last.offset + last.size + -last.size % BLOCK


def _insert(connection: sqlite3.Connection, tar: int, listed: list[tuple[IndexRow, list[Part]]]) -> None:
    connection.executemany(
        "INSERT INTO samples VALUES (?, ?, ?, ?, ?)",
        (
            (tar, row.key, at, members[0].offset - BLOCK, _end(members) - members[0].offset + BLOCK)
            for at, (row, members) in enumerate(listed)
        ),
    )
    connection.executemany(
        "INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)",
        ((tar, at, part.name, part.offset, part.size) for at, (_, members) in enumerate(listed) for part in members),
    )


def _tables(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE,"
        " sample_index INTEGER NOT NULL, byte_offset INTEGER, byte_size INTEGER)"
    )
    connection.execute(
        "CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT,"
        " content_byte_offset INTEGER, content_byte_size INTEGER)"
    )


def _indexes(connection: sqlite3.Connection) -> None:
    for name, columns in {
        "idx_samples_by_tar_and_idx": "samples(tar_file_id, sample_index)",
        "idx_sample_parts_seq": "sample_parts(tar_file_id, sample_index, content_byte_offset)",
        "idx_sample_parts_full": "sample_parts(tar_file_id, sample_index, part_name, content_byte_offset,"
        " content_byte_size)",
    }.items():
        connection.execute(f"CREATE INDEX {name} ON {columns}")


def _described(alike: set[tuple[str, ...]]) -> dict[str, Any]:
    """`dataset.yaml`. `alike` are the different lists of members that samples have."""
    pictures, captions = set(), set()
    for members in alike:
        kinds = [member.split(" ", 2) for member in members]
        image = [name for kind, _, name in kinds if kind == "image"]
        caption = [name for kind, role, name in kinds if kind == "text" and role == "caption"]
        if len(image) != 1 or len(caption) != 1 or any(kind not in ("image", "text", "meta") for kind, _, _ in kinds):
            return {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
        pictures.update(image)
        captions.update(caption)
    return {
        "sample_type": {"__module__": "megatron.energon", "__class__": "CaptioningSample"},
        "field_map": {"image": ",".join(sorted(pictures)), "caption": ",".join(sorted(captions))},
    }
