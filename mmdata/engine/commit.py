"""Committing a unit: its shard, index and ledger appear together, whole, or not at all.

Files are written under `.build/staging`, synced, named in a commit record (the moment of commit), and then
renamed to their places. Whoever opens the folder next completes renames that a kill has cut short.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mmdata import ledger
from mmdata.checksum import crc32c
from mmdata.collector import paused
from mmdata.errors import DataError
from mmdata.ledger import LedgerRow
from mmdata.native.calls import calls
from mmdata.shards import index as indexes
from mmdata.shards import packet_table
from mmdata.shards.index import IndexRow, Part
from mmdata.shards.storage import fsync_folder, write_atomic
from mmdata.shards.table import ShardEntry
from mmdata.types import Media, Sample

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from mmdata.shards.tar import TarWriter

EXTENSIONS = {"jpeg": "jpg", "tiff": "tif", "jpeg2000": "jp2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A sample that goes into the shard, all its media holding their bytes."""

    row: int
    sample: Sample
    signatures: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRecord:
    """That a unit is committed, and what it holds: `.build/units/NNNNNN.json`. Pydantic checks it when it is read."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    entry: ShardEntry
    counts: dict[str, int]
    reasons: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFiles:
    """The names of one unit's files, relative to the dataset. `prefix` tells those of a compaction from those that they
    replace, which a reader may still have in use."""

    number: int
    prefix: str = ""

    @classmethod
    def of(cls, entry: ShardEntry) -> UnitFiles:
        """As they are called already."""
        name = Path(entry.ledger).name
        return cls(number=entry.unit, prefix=name.removesuffix(f"{entry.unit:06d}.parquet"))

    @property
    def shard(self) -> str:
        return f"shards/{self.prefix}{self.number:06d}.tar"

    @property
    def index(self) -> str:
        return f"index/{self.prefix}{self.number:06d}.arrow"

    @property
    def ledger(self) -> str:
        return f"ledger/{self.prefix}{self.number:06d}.parquet"

    @property
    def all(self) -> tuple[str, str, str]:
        return (self.shard, self.index, self.ledger)


def staged(name: str, area: str = "staging") -> str:
    """Where a file waits before its commit: never a name that a reader's pattern would match."""
    return f".build/{area}/{name.replace('/', '-')}.part"


def write_unit(
    folder: Path,
    number: int,
    input_first: int,
    kept: Iterable[Kept],
    rows: list[LedgerRow],
    *,
    area: str = "staging",
    prefix: str = "",
) -> tuple[ShardEntry, list[LedgerRow]]:
    """Write one unit's files into `.build/<area>` and sync them.

    `kept` are in input order and are taken one at a time, so that media on disk are read when written.
    Returns the unit's manifest entry (`first` is left 0) and its ledger rows with shard places filled in.
    """
    files = UnitFiles(number=number, prefix=prefix)
    shard_path = folder / staged(files.shard, area)
    shard = write_shard(shard_path, kept)
    index_rows = shard.rows
    entry: dict[str, Any] = {}
    if index_rows:
        _fsync(shard_path)
        data = indexes.to_bytes(index_rows)
        _write(folder / staged(files.index, area), data)
        entry = {
            "shard": files.shard,
            "shard_bytes": shard.size,
            "shard_sha256": shard.sha256,
            "index": files.index,
            "index_sha256": hashlib.sha256(data).hexdigest(),
            "index_crc32c": int(crc32c(data)),
        }
    else:
        shard_path.unlink()
    places = {row.row: at for at, row in enumerate(index_rows)}
    final, ledger_sha256 = write_ledger(folder, files, rows, places, area=area)
    return (
        ShardEntry(
            unit=number,
            first=0,
            rows=len(index_rows),
            input_first=input_first,
            input_rows=len(rows),
            ledger=files.ledger,
            ledger_sha256=ledger_sha256,
            **entry,
        ),
        final,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A shard as it was written: its index rows, its bytes, and their sha256 where it was asked for."""

    rows: list[IndexRow]
    size: int
    sha256: str | None


def write_shard(path: Path, kept: Iterable[Kept], *, sha256: bool = True) -> Shard:
    """Write a shard and say what its index holds. Raises OSError."""
    from mmdata.shards.sink import ShardSink  # who adopts the tars of others writes none
    from mmdata.shards.tar import TarWriter

    with open(path, "wb", buffering=0) as raw, ShardSink(raw.fileno(), sha256=sha256) as sink, paused():
        writer = TarWriter(sink)
        rows = [_add(writer, item) for item in kept]
        writer.finish()
        sink.flush()
        return Shard(rows=rows, size=writer.position, sha256=sink.hexdigest() if sha256 else None)


def write_ledger(
    folder: Path, files: UnitFiles, rows: list[LedgerRow], places: dict[int, int], *, area: str = "staging"
) -> tuple[list[LedgerRow], str]:
    """Write the ledger of a unit whose kept rows lie at `places` in its shard, and sync it and the names of all that is
    staged; returns its rows with these places, and its SHA-256."""
    final = [_placed(row, files.number, places) for row in rows]
    path, data = folder / staged(files.ledger, area), ledger.to_bytes(ledger.to_table(final))
    path.write_bytes(data)
    _fsync(path)
    fsync_folder(path.parent)  # the names, too, must be there once the commit record is
    return final, hashlib.sha256(data).hexdigest()


def _placed(row: LedgerRow, number: int, places: dict[int, int]) -> LedgerRow:
    values = {name: getattr(row, name) for name in LedgerRow.__slots__}
    at = places.get(row.row)
    values |= {"shard": number if at is not None else None, "shard_row": at}
    return LedgerRow(**values)


def _add(writer: TarWriter, item: Kept) -> IndexRow:
    sample = item.sample
    before = f"{sample.key}."
    media = [part for part in sample.parts if isinstance(part, Media)]
    single = len(media) <= 1 and len(sample.parts) - len(media) <= 1
    parts: list[Part] = []
    for number, part in enumerate(sample.parts):
        place = "" if single else f"{number}."
        if not isinstance(part, Media):
            data = part.text.encode()
            offset = writer.add(f"{before}{place}txt", data)
            parts.append(Part(f"{place}txt", "text", offset, len(data), _crc32c(data), part.role, part.train))
            continue
        if part.data is None or any(stored.alone for stored in part.made):
            assert part.made, sample.key
            parts.append(_medium("", part, 0, 0, 0))
        else:
            name = f"{place}{EXTENSIONS.get(part.format or '', part.format or 'bin')}"
            offset = writer.add(before + name, part.data)
            parts.append(_medium(name, part, offset, len(part.data), _crc32c(part.data)))
        for stored in part.made:
            assert stored.data is not None, sample.key
            name, data = f"{place}{stored.name}.arrow", stored.data
            offset, size, checksum = writer.add(before + name, data), len(data), _crc32c(data)
            parts.append(Part(name, "stored", offset, size, checksum, format=stored.format, digest=stored.digest))
    data = _meta_json(sample, media)
    parts.append(Part("json", "meta", writer.add(f"{before}json", data), len(data), _crc32c(data)))
    return IndexRow(
        key=sample.key,
        row=item.row,
        origin=sample.origin.uri,
        origin_row=sample.origin.row,
        parts=tuple(parts),
        signatures=item.signatures,
    )


_crc32c: Callable[[bytes], int] = crc32c
_FACTS = tuple(
    name for name in Media.__slots__ if name not in ("kind", "data", "packets", "marks", "place", "made", "excerpt")
)
_facts = operator.attrgetter(*_FACTS)
_NAMED = ("format", "height", "width", "mode", "frames", "fps", "seconds", "sample_rate", "channels", "samples")
_named = operator.attrgetter(*_NAMED)
assert Part._fields[7:] == (*_NAMED, "packets", "marks", "sha256", "uri", "verified", "digest", "inline")


def _medium(name: str, media: Media, offset: int, size: int, checksum: int) -> Part:
    """The part of a medium, its facts in their places: by name they would take four times as long."""
    packets, marks = _packed(media)
    facts = (*_named(media), packets, marks, media.sha256, media.uri, media.verified)
    return Part(name, media.kind, offset, size, checksum, media.role, None, *facts)


def _media_facts(media: Media) -> dict[str, Any]:
    packets, marks = _packed(media)
    return dict(zip(_FACTS, _facts(media), strict=True), packets=packets, marks=marks)


def _packed(media: Media) -> tuple[bytes | None, list[tuple[str, tuple[int, ...]]] | None]:
    """Packets and marks as the index holds them."""
    packets = None if media.packets is None else packet_table.to_bytes(media.packets)
    return packets, sorted(media.marks.items()) if media.marks else None


_meta_text = indexes.encoder(sort_keys=True, ascii=False, allow_nan=False)


def _meta_json(sample: Sample, media: Sequence[Media]) -> bytes:
    """Provenance and the source's own columns, as canonical JSON: what readers of the plain tar get to see."""
    value: dict[str, Any] = {"key": sample.key, "origin": sample.origin.uri, "origin_row": sample.origin.row}
    value |= _told(media[0]) if len(media) == 1 else {"media": [_told(medium) for medium in media]}
    if sample.meta:
        value["meta"] = dict(sample.meta)
    compiled = calls()
    if compiled is not None and (made := compiled.json(value, True)) is not None:
        return made  # type: ignore[no-any-return]
    return _meta_text(value).encode()


def _told(medium: Media) -> dict[str, Any]:
    facts = {"url": medium.uri, "height": medium.height, "width": medium.width, "sha256": medium.sha256}
    return {name: value for name, value in facts.items() if value is not None} if None in facts.values() else facts


def canonical(value: Any) -> bytes:
    """JSON that has one spelling, so that a changed byte can be told."""
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()


def record(folder: Path, entry: ShardEntry, rows: list[LedgerRow], *, area: str = "units") -> None:
    """Write the commit record of a staged unit: from here on the unit is committed."""
    record_ends(folder, entry, Counter((row.state, row.reason) for row in rows), area=area)


def record_ends(
    folder: Path, entry: ShardEntry, ends: Mapping[tuple[str, str], int], *, area: str = "units"
) -> CommitRecord:
    """As `record`, of so many rows in each state for each reason; returns what is written."""
    reasons: dict[str, dict[str, int]] = {}
    counts = ledger.counts([])
    for (state, reason), count in ends.items():
        counts[state] += count
        if state != "ok":
            reasons.setdefault(state, {})[reason] = count
    value = CommitRecord(entry=entry, counts=counts, reasons=reasons)
    path = folder / ".build" / area / f"{entry.unit:06d}.json"
    write_atomic(path, canonical(asdict(value)))
    return value


def publish(folder: Path, entry: ShardEntry, *, area: str = "staging") -> None:
    """Move a recorded unit's files to their places. Repeating it is harmless."""
    for name in UnitFiles.of(entry).all:
        source, target = folder / staged(name, area), folder / name
        if source.exists():
            os.replace(source, target)
            fsync_folder(target.parent)


def records(folder: Path, area: str = "units") -> Iterator[CommitRecord]:
    """The commit records in unit order. Raises DataError for one that cannot be read."""
    for path in sorted((folder / ".build" / area).glob("*.json")):
        try:
            data = path.read_bytes()
            value = _checked().validate_json(data)
            if canonical(asdict(value)) != data:
                raise ValueError("its bytes have changed")
        except (ValueError, OSError) as error:
            raise DataError("commit_record", f"{path}: {' '.join(str(error).split())}") from error
        yield value


@functools.cache
def _checked() -> TypeAdapter[CommitRecord]:
    from pydantic import TypeAdapter

    return TypeAdapter(CommitRecord)


def sums(records: Iterable[CommitRecord]) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Counts by state, and by state and reason, over commit records."""
    counts: Counter[str] = Counter(dict.fromkeys(ledger.STATES, 0))
    reasons: dict[str, Counter[str]] = {}
    for value in records:
        counts.update(value.counts)
        for state, found in value.reasons.items():
            reasons.setdefault(state, Counter()).update(found)
    return dict(counts), {state: dict(sorted(found.items())) for state, found in sorted(reasons.items())}


def prepare(folder: Path) -> None:
    """Make the folders of a build."""
    for name in ("shards", "index", "ledger", ".build/units", ".build/staging"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def roll_forward(folder: Path) -> list[ShardEntry]:
    """Complete interrupted renames, remove what was never committed; returns the committed units.

    Raises DataError when a committed file is missing or has another size than recorded.
    """
    committed = [value.entry for value in records(folder)]
    for entry in committed:
        publish(folder, entry)
        _check_sizes(folder, entry)
    for path in (folder / ".build" / "staging").iterdir():
        path.unlink()
    for place in (folder, folder / ".build", folder / ".build" / "units"):
        for path in place.glob(".*.tmp"):  # what `write_atomic` was killed over
            path.unlink()
    return committed


def _check_sizes(folder: Path, entry: ShardEntry) -> None:
    if entry.shard is not None and "://" not in entry.shard:
        path = folder / entry.shard
        size = path.stat().st_size if path.exists() else -1
        if size != entry.shard_bytes:
            raise DataError(
                "shard_missing" if size < 0 else "shard_cut",
                f"{path}: {size if size >= 0 else 'no'} bytes, {entry.shard_bytes} were committed; "
                f"remove .build/units/{entry.unit:06d}.json and all later ones to build them again",
            )


def _write(path: Path, data: bytes | bytearray) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
