"""manifest.json: what the dataset is. Written last, atomically; a dataset without one is not finished."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from mmdata.checksum import crc32c
from mmdata.errors import DataError
from mmdata.shards import table as tables
from mmdata.shards.storage import write_atomic
from mmdata.shards.table import ShardEntry

if TYPE_CHECKING:
    from pydantic import TypeAdapter

VERSION = 4
"""2: the index holds packet tables, marks and audio lengths. 3: and what views have made of media. 4: the table of
shards is a file of its own, `shards.arrow`."""


_CHECKED = {"extra": "forbid", "use_attribute_docstrings": True}
"""How pydantic reads the classes here: it is loaded to check what is on disk, not to write what we have made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """What the manifest knows of `shards.arrow`, the table of shards beside it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    units: int
    """Units of work."""
    shards: int
    """Those of them that kept samples, and so have a shard."""
    bytes: int
    sha256: str
    firsts_crc32c: int
    """CRC-32C of the shards' prefix sums of samples: S + 1 little-endian int64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The dataset: the spec it was built from, its input, counts and files, and one digest of its content."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _CHECKED

    version: int = VERSION
    generation: int = 0
    """Grows by one with every change to a finished dataset (`--retry`)."""
    created_by: str
    spec: dict[str, Any]
    """The bound spec: every default filled in, fields that cannot change the result left out."""
    spec_digest: str
    inputs: list[dict[str, Any]]
    """Fingerprints of the input files."""
    plugins: dict[str, str] = field(default_factory=dict)
    """sha256 of the plugin files that took part."""
    input_rows: int
    samples: int
    counts: dict[str, int]
    """Input records by final state; they sum to `input_rows`."""
    reasons: dict[str, dict[str, int]]
    """Records by state and reason, for every state but `ok`."""
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of further files of the dataset (stats.json, report.html)."""
    table: TableFile | None = None
    """Of the table of shards; null until it is written."""
    shards: Sequence[ShardEntry]
    """The units in their order, read from the table when they are asked for."""
    root_digest: str
    """sha256 over the digests of all shards and indexes, in order: equal digests, equal data."""

    def prefix_digest(self, shards: int) -> str:
        """The root digest of the first `shards` shards alone: that of the dataset as it was when it had no more."""
        return root_digest(itertools.islice((entry for entry in self.shards if entry.rows), shards))


def root_digest(shards: Iterable[ShardEntry]) -> str:
    """SHA-256 of one line per non-empty shard: unit, rows, sha256 of the tar, sha256 of the index."""
    digest = hashlib.sha256()
    for entry in shards:
        if entry.rows:
            digest.update(f"{entry.unit} {entry.rows} {entry.shard_sha256} {entry.index_sha256}\n".encode())
    return digest.hexdigest()


def to_bytes(manifest: Manifest) -> bytes:
    """Canonical JSON with, as its last field, the sha256 of everything before it (`self_sha256`)."""
    body = {each.name: getattr(manifest, each.name) for each in fields(manifest) if each.name != "shards"}
    if manifest.table is not None:
        body["table"] = {each.name: getattr(manifest.table, each.name) for each in fields(TableFile)}
    return (json.dumps({**body, "self_sha256": _digest(body)}, indent=1) + "\n").encode()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write(folder: Path, manifest: Manifest) -> Manifest:
    """Write the table of shards and then, last of all, the manifest; returns it as it is written."""
    data = tables.to_bytes(manifest.shards, _binding(manifest))
    table = tables.ShardTable(pa.py_buffer(data), sum(entry.rows > 0 for entry in manifest.shards))
    described = TableFile(
        units=len(table),
        shards=table.shards,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        firsts_crc32c=int(crc32c(table.firsts.data)),
    )
    write_atomic(folder / tables.NAME, data)
    manifest = replace(manifest, table=described)
    rewrite(folder, manifest)
    return manifest


def rewrite(folder: Path, manifest: Manifest) -> None:
    """Write the manifest alone, whose shards are those of the table that is there."""
    write_atomic(folder / "manifest.json", to_bytes(manifest))


def _binding(manifest: Manifest) -> dict[str, str]:
    """What a table says of the manifest that it belongs to."""
    return {"generation": str(manifest.generation), "root_digest": manifest.root_digest}


def read(folder: Path, *, every_byte: bool = False) -> Manifest:
    """The manifest of a finished dataset. Raises DataError where there is none, or where a value in it changed; with
    `every_byte` also where a byte did that means nothing (white space).

    The table of shards is mapped, not read: each row is checked when it is taken out.
    """
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        hint = (
            "the build has not finished: run it again to resume"
            if (folder / ".build").exists()
            else "no such folder"
            if not folder.exists()
            else "not a dataset made by mmdata.build; build one first: python -m mmdata.build --spec FILE"
        )
        raise DataError("manifest_missing", f"{path}: {hint}") from error
    except NotADirectoryError as error:
        raise DataError("manifest_unreadable", f"{folder}: a file, not the folder of a dataset") from error
    except OSError as error:
        raise DataError("manifest_unreadable", f"{path}: {error.strerror}") from error
    manifest = from_bytes(data, str(path))
    if every_byte and to_bytes(manifest) != data:  # takes as long as all the rest of opening a dataset
        raise DataError("manifest_damaged", f"{path}: its bytes are not as they were written")
    assert manifest.table is not None, path
    table = tables.open_table(folder / tables.NAME, manifest.table.shards, _binding(manifest))
    return replace(manifest, shards=table)


def from_bytes(data: bytes, name: str) -> Manifest:
    """The manifest in these bytes of the file `name`, without its table."""
    try:
        body = json.loads(data)
        version = body.get("version")
        if isinstance(version, int) and version != VERSION:
            raise DataError(
                "manifest_version",
                f"{name}: version {version}, this code reads {VERSION}; "
                + (
                    "it was made by a newer mmdata: update this one"
                    if version > VERSION
                    else "remove it and run the same build again, which keeps what it has committed and writes the "
                    "manifest anew"
                ),
            )
        said = body.pop("self_sha256", None)
        manifest = checked().validate_python({**body, "shards": ()})
    except (ValueError, AttributeError) as error:  # pydantic's is a ValueError
        raise DataError("manifest_damaged", f"{name}: {str(error).splitlines()[0]}") from error
    if manifest.table is None or said != _digest(body):
        raise DataError("manifest_damaged", f"{name}: its bytes do not match its own sha256")
    return manifest


@functools.cache
def checked() -> TypeAdapter[Manifest]:
    """What compares a manifest on disk with `Manifest`; made when it is first asked for."""
    from pydantic import TypeAdapter

    return TypeAdapter(Manifest)


def read_json(path: Path) -> Any:
    """A JSON file of a dataset beside its manifest. Raises DataError where it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError("file_damaged", f"{path}: {error}") from error
