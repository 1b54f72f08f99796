"""Tombstones: keys that were removed from a finished dataset, one append-only file per generation; no shard changes.

`tombstones/0001.arrow` holds the first removal, 0002 the second; generation 0 is the dataset as it was built. Each file
names the digest of the one before, so that none can be taken out, and reads back to the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mmdata.errors import DataError, RunError
from mmdata.shards.storage import fsync_folder

FOLDER = "tombstones"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("time", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """One key removed, why, and when (UTC). `position` is where it lay then."""

    key: str
    position: int
    reason: str
    time: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One file: what it removes. `digest` is of its keys and reasons and of all files before, times left out."""

    generation: int
    stones: tuple[Tombstone, ...]
    digest: str


def read(folder: Path) -> tuple[Removal, ...]:
    """All removals of a dataset in their order. Raises DataError for a file that is missing, changed, or not one."""
    if not os.path.isdir(os.path.join(folder, FOLDER)):  # as it is for nearly all: the quickest way to know
        return ()
    paths = sorted((folder / FOLDER).glob("*.arrow"))
    found: list[Removal] = []
    for generation, path in enumerate(paths, 1):
        expected = folder / name(generation)
        if path != expected:
            raise DataError("tombstones_missing", f"{expected}: no such file, but there is {path.name}")
        found.append(_read(path, generation, found[-1].digest if found else ""))
    return tuple(found)


def append(folder: Path, stones: Sequence[Tombstone]) -> Removal:
    """Write the next file, atomically; two that do so at once cannot overwrite each other. Raises RunError where it
    cannot be written or another has just been."""
    before = read(folder)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    timed = tuple(Tombstone(key=s.key, position=s.position, reason=s.reason, time=s.time or now) for s in stones)
    previous = before[-1].digest if before else ""
    path = folder / name(len(before) + 1)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(_to_bytes(timed, previous))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
        fsync_folder(path.parent)
    except FileExistsError:
        raise RunError(f"{path}: another removal has been written meanwhile; run it again") from None
    except OSError as error:
        raise RunError(f"{path}: cannot write: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return Removal(generation=len(before) + 1, stones=timed, digest=_digest(timed, previous))


def _read(path: Path, generation: int, previous: str) -> Removal:
    try:
        data = path.read_bytes()
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        table.validate(full=True)
        stones = tuple(Tombstone(**row) for row in table.to_pylist())
        whole = _to_bytes(stones, previous) == data
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        raise DataError("tombstones_damaged", f"{path}: {' '.join(str(error).split())}") from error
    if not whole:
        raise DataError("tombstones_damaged", f"{path}: its bytes have changed, or it follows other removals")
    return Removal(generation=generation, stones=stones, digest=_digest(stones, previous))


def _to_bytes(stones: Sequence[Tombstone], previous: str) -> bytes:
    """The file: its metadata hold the digests of this removal and the one before, and of the times."""
    times = hashlib.sha256(json.dumps([stone.time for stone in stones]).encode()).hexdigest()
    metadata = {"digest": _digest(stones, previous), "previous": previous, "times": times}
    schema = SCHEMA.with_metadata(metadata)
    columns = [pa.array([getattr(stone, field.name) for stone in stones], field.type) for field in SCHEMA]
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))
    return sink.getvalue()


def _digest(stones: Sequence[Tombstone], previous: str) -> str:
    value = [previous, [[stone.key, stone.position, stone.reason] for stone in stones]]
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def name(generation: int) -> str:
    """Of the file of a generation, in the dataset's folder.

    >>> name(1)
    'tombstones/0001.arrow'
    """
    return f"{FOLDER}/{generation:04d}.arrow"
