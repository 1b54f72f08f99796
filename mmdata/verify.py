"""`python -m mmdata.verify`: proves that every byte of a dataset is the one that was built."""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmdata import ledger, unread
from mmdata.checksum import crc32c
from mmdata.engine import binding, commit
from mmdata.errors import DataError
from mmdata.folders import dataset_folder
from mmdata.ledger import LedgerRow
from mmdata.outputs import energon
from mmdata.shards import manifest as manifests
from mmdata.shards import rows as rows_of
from mmdata.shards import table as tables
from mmdata.shards import tar, tombstones
from mmdata.shards.access import open_source
from mmdata.shards.folder import Folder
from mmdata.shards.foreign_tar import TarPass
from mmdata.shards.index import Index, IndexRow
from mmdata.shards.manifest import Manifest
from mmdata.shards.storage import sha256_file
from mmdata.shards.table import ShardEntry


@dataclass(slots=True, kw_only=True)
class Verification:
    """What was checked and what is wrong; `problems` is empty for a sound dataset."""

    samples: int = 0
    shards: int = 0
    bytes: int = 0
    unsummed: int = 0
    """Shards that were indexed without sums: of these only sizes and places could be checked."""
    problems: list[str] = field(default_factory=list)


def verify_dataset(path: str | os.PathLike[str]) -> Verification:
    """Check a finished dataset completely: manifest, root digest, SHA-256 of every file, each tar member
    against its index row and crc32c, ledger sums against the manifest, no file too many or too few.

    A shard that was indexed without sums is compared by its size, and its members by their names and places: whether
    their bytes are still those that were indexed nobody can say, and the shard is counted as `unsummed`.

    Damage is reported, never raised.
    """
    folder = Path(path)
    result = Verification()
    if (folder / ".build" / "publish.json").exists():
        result.problems.append(f"{folder}: publishing a change was interrupted; run the same command again to finish")
        return result
    if (folder / ".build" / "append.json").exists():
        result.problems.append(f"{folder}: an append has begun and not ended; run the same build again to end it")
        return result
    try:
        manifest = manifests.read(folder, every_byte=True)
    except DataError as error:
        result.problems.append(str(error))
        return result
    result.problems.extend(_table(folder, manifest))
    if result.problems:
        return result  # the rest goes by the table
    result.problems.extend(_sums(manifest))
    result.problems.extend(_files(folder, manifest))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
        for entry, (problems, rows) in zip(
            manifest.shards,
            pool.map(lambda entry: _unit(folder, entry, _adopted(manifest)), manifest.shards),
            strict=True,
        ):
            result.problems.extend(problems)
            result.samples += rows
            result.shards += entry.rows > 0
            result.unsummed += entry.rows > 0 and entry.shard_sha256 is None
            result.bytes += entry.shard_bytes
    result.problems.extend(_ledger_sums(folder, manifest))
    return result


def _table(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The table of shards: each byte of it, and what the manifest says of it."""
    path, said = folder / tables.NAME, manifest.table
    assert said is not None, folder
    if _sha256(path) != said.sha256:
        yield f"table_sha256: {path} has changed since the build"
        return
    assert isinstance(manifest.shards, tables.ShardTable), path
    firsts = int(crc32c(manifest.shards.firsts.data))
    if (len(manifest.shards), path.stat().st_size, firsts) != (said.units, said.bytes, said.firsts_crc32c):
        yield f"table_sums: {path}: not the numbers that the manifest has"
    try:
        if manifests.root_digest(manifest.shards) != manifest.root_digest:
            yield f"manifest_root: {folder / 'manifest.json'}: the root digest does not match the shards' digests"
    except DataError as error:
        yield str(error)


def _sums(manifest: Manifest) -> Iterator[str]:
    """The manifest's own arithmetic."""
    first = input_first = 0
    for at, entry in enumerate(manifest.shards):
        if (entry.unit, entry.first, entry.input_first) != (at, first, input_first):
            yield f"manifest_sums: unit {entry.unit}: its place, first sample or first input row does not follow"
        first += entry.rows
        input_first += entry.input_rows
    if (first, input_first) != (manifest.samples, manifest.input_rows):
        yield f"manifest_sums: shards hold {first} of {manifest.samples} samples, {input_first} input rows"
    if sum(manifest.counts.values()) != manifest.input_rows or manifest.counts["ok"] != manifest.samples:
        yield f"manifest_sums: the states {manifest.counts} do not sum to {manifest.input_rows} input rows"


def _files(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Further files, files that should not be there, and the state that a retry would start from."""
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            yield f"file_missing: {path}"
        elif _sha256(path) != digest:
            yield f"file_sha256: {path} has changed since the build"
    try:
        tombstones.read(folder)
    except DataError as error:
        yield str(error)
    expected = {name for entry in manifest.shards for name in (entry.shard, entry.index, entry.ledger) if name}
    expected |= {f"{entry.shard}.idx" for entry in manifest.shards if entry.rows}  # of Energon, if exported to it
    for entry in manifest.shards:
        yield from energon.problems(folder, entry)
    for part in ("shards", "index", "ledger"):
        for path in sorted((folder / part).iterdir()) if (folder / part).is_dir() else ():
            if f"{part}/{path.name}" not in expected:
                yield f"file_unknown: {path} is not in the manifest"
    if not (folder / ".build").is_dir():
        return  # a copy of the dataset alone is a whole dataset; only `--retry` needs the rest
    try:
        records = list(commit.records(folder))
        entries = [value.entry for value in records]
        same = entries == [replace(entry, first=0) for entry in manifest.shards]
        if not same or commit.sums(records) != (manifest.counts, manifest.reasons):
            yield f"commit_record: {folder / '.build' / 'units'} does not match the manifest"
    except DataError as error:
        yield str(error)
    bound = {"spec": manifest.spec, "inputs": manifest.inputs, "plugins": manifest.plugins}
    path = folder / ".build" / "build.json"
    if not path.is_file() or path.read_bytes() != commit.canonical(bound):
        yield f"build_state: {path} does not match the manifest"
    for number, told in enumerate(manifest.inputs):
        if "sha256_listing" in told and (folder / binding.INPUTS).is_dir():  # older builds kept no lists
            path = folder / binding.INPUTS / f"{number:03d}.json"
            if not binding.listed(path, told):
                yield f"build_state: {path} does not match the manifest"


def _sha256(path: Path) -> str:
    """The digest of a file, or none where it cannot be read."""
    try:
        return sha256_file(path)
    except OSError:
        return ""


def _unit(folder: Path, entry: ShardEntry, adopted: bool) -> tuple[list[str], int]:
    """One unit: its three files, each byte of them."""
    problems: list[str] = []
    checks = [(entry.ledger, entry.ledger_sha256), (entry.shard, entry.shard_sha256), (entry.index, entry.index_sha256)]
    for name, digest in checks:
        if name is None:
            continue
        if "://" in name:
            problems.extend(_remote(name, digest, entry.shard_bytes))
            continue
        path = folder / name
        if not path.is_file():
            problems.append(f"file_missing: {path}")
        elif digest is None:
            if path.stat().st_size != entry.shard_bytes:
                problems.append(f"file_size: {path}: {path.stat().st_size} bytes, {entry.shard_bytes} were indexed")
        elif _sha256(path) != digest:
            problems.append(f"file_sha256: {path}: {path.stat().st_size} bytes, not the ones that were built")
    rows: list[IndexRow] = []
    try:
        if entry.shard is not None and entry.index is not None:
            rows = Index(folder / entry.index, crc32c=entry.index_crc32c, trusted=False).rows()
            foreign = _foreign(folder, entry, rows) if adopted else _shard(folder / entry.shard, entry, rows)
            problems.extend(foreign)
        problems.extend(_ledger(folder / entry.ledger, entry, rows))
    except DataError as error:
        problems.append(str(error))
    return problems, len(rows)


def _shard(path: Path, entry: ShardEntry, rows: list[IndexRow]) -> Iterator[str]:
    """Tar against index: the same members in the same order at the same places, each with its crc32c."""
    if len(rows) != entry.rows:
        yield f"index_rows: {path}: {len(rows)} rows in the index, {entry.rows} in the manifest"
    if any(a.row >= b.row for a, b in itertools.pairwise(rows)):
        yield f"index_order: {path}: rows are not in input order"
    indexed = [(f"{row.key}.{part.name}", part) for row in rows for part in row.parts if part.name]
    try:
        members = list(tar.walk(path))
    except OSError as error:
        yield f"shard_unreadable: {path}: {error.strerror}"
        return
    if [(m.name, m.offset, m.size) for m in members] != [(n, p.offset, p.size) for n, p in indexed]:
        yield f"index_members: {path}: the index does not name the members of the tar"
        return
    with open(path, "rb") as file:
        for name, part in indexed:
            file.seek(part.offset)
            if int(crc32c(file.read(part.size))) != part.crc32c:
                yield f"part_crc32c: {path}: {name} has changed since the build"


def _adopted(manifest: Manifest) -> bool:
    """Whether the tars are others' (`mmdata.index`): they may hold more than the index names, and in other order."""
    return "index" in manifest.spec


def _foreign(folder: Path, entry: ShardEntry, rows: list[IndexRow]) -> Iterator[str]:
    """A tar that another has written: each part where the index says, with its crc32c, if it has one; without, a member
    of a tar has its place and size."""
    if len(rows) != entry.rows:
        yield f"index_rows: {entry.index}: {len(rows)} rows in the index, {entry.rows} in the manifest"
    source = rows_of.open_shard(Folder(folder).locate(entry.shard or ""))
    members: set[tuple[str, int, int]] | None = None
    if entry.shard_sha256 is None and not rows_of.is_table(source.uri):
        found = TarPass(source, wanted=lambda name, size: False).members()
        members = {(member.name.removeprefix("./").lower(), member.offset, member.size) for member in found}
    for row in rows:
        for part in row.parts:
            if members is not None and part.inline is None:
                if (f"{row.key}.{part.name}".lower(), part.offset, part.size) not in members:
                    yield f"index_members: {entry.shard}: no member {row.key}.{part.name} at byte {part.offset}"
                continue
            data = source.read(part.offset, part.size) if part.inline is None else part.inline
            if part.crc32c is not None and int(crc32c(data)) != part.crc32c:
                yield f"part_crc32c: {entry.shard}: {row.key}.{part.name} has changed since it was indexed"
    source.close()


def _remote(uri: str, digest: str | None, size: int) -> Iterator[str]:
    """A shard behind a URL, read whole, or of this size where its digest was not taken."""
    try:
        source = open_source(uri)
        if digest is None:
            if source.size != size:
                yield f"file_size: {uri}: {source.size} bytes, {size} were indexed"
            return
        found = hashlib.sha256()
        for at in range(0, source.size, 8 << 20):
            found.update(source.read(at, min(8 << 20, source.size - at)))
        if found.hexdigest() != digest:
            yield f"file_sha256: {uri}: {source.size} bytes, not the ones that were indexed"
    except DataError as error:
        yield str(error)


def _ledger(path: Path, entry: ShardEntry, rows: list[IndexRow]) -> Iterator[str]:
    """Ledger against index: one row per input row, and exactly the kept ones are in the shard."""
    found = ledger.read_rows(path)
    if [row.row for row in found] != list(range(entry.input_first, entry.input_first + entry.input_rows)):
        yield f"ledger_rows: {path}: not one row per input row of the unit"
    kept = [(row.key, row.row, row.shard, row.shard_row) for row in found if row.state == "ok"]
    if kept != [(row.key, row.row, entry.unit, at) for at, row in enumerate(rows)]:
        yield f"ledger_index: {path}: the records marked ok are not the samples of the shard"


def _ledger_sums(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The ledgers together against the manifest's counts and reasons."""
    counts: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    try:
        for entry in manifest.shards:
            found: list[LedgerRow] = ledger.read_rows(folder / entry.ledger)
            counts.update(row.state for row in found)
            reasons.update((row.state, row.reason) for row in found if row.state != "ok")
        if ledger.counts(counts.elements()) != manifest.counts:
            yield f"ledger_sums: the ledgers hold {dict(counts)}, the manifest {manifest.counts}"
    except DataError as error:
        yield str(error)
        return
    stated = {(state, reason): n for state, found in manifest.reasons.items() for reason, n in found.items()}
    if dict(reasons) != stated:
        yield "ledger_sums: the ledgers' reasons are not those of the manifest"


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.verify",
        description="Check every byte of a dataset: digests, tar against index, crc32c, ledger sums.",
        epilog="exit codes: 0 sound; 1 damaged (each problem on its own line); 2 not a folder of this machine.",
    )
    parser.add_argument("dataset", help="folder of a finished dataset")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args(argv)
    result = verify_dataset(dataset_folder(arguments.dataset))
    if arguments.json:
        print(
            json.dumps(
                {
                    "samples": result.samples,
                    "shards": result.shards,
                    "bytes": result.bytes,
                    "unsummed": result.unsummed,
                    "problems": result.problems,
                }
            )
        )
    else:
        for problem in result.problems:
            print(f"damaged: {problem}")
        count = len(result.problems)
        verdict = f"{count} problem{'s' * (count > 1)}" if count else "sound"
        size = f"{result.samples:,} samples, {result.shards} shards, {result.bytes:,} bytes"
        if result.unsummed:
            verdict += f"; {result.unsummed} shards were indexed without sums, their bytes are unchecked"
        print(f"{arguments.dataset}: {size}: {verdict}")
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
