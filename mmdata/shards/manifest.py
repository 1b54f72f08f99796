"""manifest.json: what the dataset is. Written last, atomically; a dataset without one is not finished."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mmdata.errors import DataError
from mmdata.shards.storage import write_atomic

VERSION = 3
"""2: the index holds packet tables, marks and audio lengths. 3: and what views have made of media."""


class ShardEntry(BaseModel):
    """One unit of work. Units that kept nothing have no shard: `rows` 0 and no files but the ledger."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    unit: int
    """Number of the work unit; shard files carry it as six digits."""
    first: int
    """Samples in all shards before this one."""
    rows: int
    """Samples in this shard."""
    input_first: int
    """First input row of the unit."""
    input_rows: int
    """Input rows of the unit."""
    shard: str | None = None
    """Path of the tar, relative to the dataset."""
    shard_bytes: int = 0
    shard_sha256: str | None = None
    index: str | None = None
    """Path of the Arrow index, relative to the dataset."""
    index_sha256: str | None = None
    index_crc32c: int | None = None
    ledger: str
    """Path of the unit's ledger, relative to the dataset."""
    ledger_sha256: str


class Manifest(BaseModel):
    """The dataset: the spec it was built from, its input, counts and files, and one digest of its content."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    version: int = VERSION
    generation: int = 0
    """Grows by one with every change to a finished dataset (`--retry`)."""
    created_by: str
    spec: dict[str, Any]
    """The bound spec: every default filled in, fields that cannot change the result left out."""
    spec_digest: str
    inputs: list[dict[str, Any]]
    """Fingerprints of the input files."""
    plugins: dict[str, str] = {}
    """sha256 of the plugin files that took part."""
    input_rows: int
    samples: int
    counts: dict[str, int]
    """Input records by final state; they sum to `input_rows`."""
    reasons: dict[str, dict[str, int]]
    """Records by state and reason, for every state but `ok`."""
    files: dict[str, str] = {}
    """sha256 of further files of the dataset (stats.json, report.html)."""
    shards: list[ShardEntry]
    root_digest: str
    """sha256 over the digests of all shards and indexes, in order: equal digests, equal data."""


def root_digest(shards: list[ShardEntry]) -> str:
    """SHA-256 of one line per non-empty shard: unit, rows, sha256 of the tar, sha256 of the index."""
    digest = hashlib.sha256()
    for entry in shards:
        if entry.rows:
            digest.update(f"{entry.unit} {entry.rows} {entry.shard_sha256} {entry.index_sha256}\n".encode())
    return digest.hexdigest()


def to_bytes(manifest: Manifest) -> bytes:
    """Canonical JSON with, as its last field, the sha256 of everything before it (`self_sha256`)."""
    body = manifest.model_dump(mode="json")
    digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return (json.dumps({**body, "self_sha256": digest}, indent=1) + "\n").encode()


def write(folder: Path, manifest: Manifest) -> None:
    write_atomic(folder / "manifest.json", to_bytes(manifest))


def read(folder: Path) -> Manifest:
    """The manifest of a finished dataset. Raises DataError where there is none, or where a byte of it changed."""
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        hint = (
            "the build has not finished: run it again to resume"
            if (folder / ".build").exists()
            else "not a dataset made by mmdata.build"
        )
        raise DataError("manifest_missing", f"{path}: {hint}") from error
    except OSError as error:
        raise DataError("manifest_unreadable", f"{path}: {error.strerror}") from error
    try:
        body = json.loads(data)
        body.pop("self_sha256", None)
        manifest = Manifest.model_validate(body)
    except (ValueError, ValidationError, AttributeError) as error:
        raise DataError("manifest_damaged", f"{path}: {str(error).splitlines()[0]}") from error
    if manifest.version != VERSION:
        raise DataError("manifest_version", f"{path}: version {manifest.version}, this code reads {VERSION}")
    if to_bytes(manifest) != data:
        raise DataError("manifest_damaged", f"{path}: its bytes do not match its own sha256")
    if root_digest(manifest.shards) != manifest.root_digest:
        raise DataError("manifest_root", f"{path}: the root digest does not match the shard digests")
    return manifest


def read_json(path: Path) -> Any:
    """A JSON file of a dataset beside its manifest. Raises DataError where it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError("file_damaged", f"{path}: {error}") from error
