"""Adopting a tar that another has written: its samples as rows of our index, where they lie, and a fate for each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import crc32c
import pyarrow.parquet as pq

from mmdata import ledger
from mmdata.decode.work import Work
from mmdata.engine import commit
from mmdata.engine.energon import FieldMap
from mmdata.errors import DataError
from mmdata.ledger import LedgerRow
from mmdata.shards import index as indexes
from mmdata.shards.access import open_source
from mmdata.shards.foreign_tar import ForeignMember, TarPass
from mmdata.shards.index import FOREIGN, IndexRow, Part
from mmdata.shards.storage import fsync_folder, sha256_file
from mmdata.shards.table import ShardEntry
from mmdata.sources import _messages
from mmdata.sources._tables import printable
from mmdata.steps.probe import Probe
from mmdata.types import Drop, Media, MediaKind, Origin, Sample, State, Text

KINDS: dict[str, MediaKind] = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2"), "image"),
    **dict.fromkeys(("mp4", "m4v", "mov", "webm", "mkv", "avi"), "video"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "opus", "m4a", "aac"), "audio"),
}
TEXTS = ("txt", "caption", "text")
CAPTIONS = ("caption", "text", "TEXT")
GATHERED = 64
"""Samples that are probed side by side."""
LONGEST_KEY = 200


@dataclass(slots=True)
class Group:
    """The members of one sample, by their extension, in their order; or why they are none."""

    key: str
    members: dict[str, ForeignMember] = field(default_factory=dict)
    drop: Drop | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One tar to adopt: its number, its URI, how the dataset names it, the first of its rows, those of its samples to
    leave out by their number in the tar, and which member is what, where its folder says so."""

    number: int
    uri: str
    name: str
    input_first: int
    excluded: frozenset[int] = frozenset()
    fields: FieldMap | None = None


def adopt(
    folder: Path, unit: Unit, *, verify: Literal["full", "header"], keys: dict[str, str], pool: ThreadPoolExecutor
) -> tuple[ShardEntry, list[LedgerRow]]:
    """Read a tar once and write its index and ledger into the staging area of `folder`.

    `keys` holds the keys of the dataset so far, each with the tar it came from, and is added to. A tar that is damaged
    gives the whole samples before the damage, and one row that says where it is. Raises RunError when the storage
    fails, OSError where the dataset cannot be written.
    """
    source = open_source(unit.uri)
    rows: list[IndexRow] = []
    fates: list[LedgerRow] = []
    try:
        tar = TarPass(source)
        probe = Probe(
            verify=verify, orientation="keep", cmyk="reject", sixteen_bit="reject", animated="reject", digest="sha256"
        )
        for batch in _batches(_told(_groups(tar.members()), unit)):
            for group, made in zip(batch, pool.map(lambda g: _row(g, unit, probe), batch), strict=True):
                number = unit.input_first + len(fates)
                if isinstance(made, IndexRow) and made.key in keys:
                    detail = f"a sample of {keys[made.key]} has the same key"
                    made = Drop(reason="duplicate_key", detail=detail, state="duplicate", of=made.key)
                if isinstance(made, IndexRow):
                    keys[made.key] = unit.name
                    rows.append(replace(made, row=number, origin_row=len(fates)))
                fates.append(_fate(printable(group.key), unit, number, len(fates), made, len(rows) - 1))
        digest = tar.sha256()
    except DataError as error:
        drop = Drop(reason=error.reason, detail=error.detail, state="failed_permanent")
        fates.append(_fate("", unit, unit.input_first + len(fates), len(fates), drop, 0))
        digest = _sha256(source)
    finally:
        source.close()
    return _write(folder, unit, rows, fates, source.size, digest), fates


def _groups(members: Iterable[ForeignMember]) -> Iterator[Group]:
    """Neighbours of one key, as webdataset groups them: the key is the path up to the first dot of the file's name."""
    group: Group | None = None
    for member in members:
        place, slash, base = member.name.rpartition("/")
        stem, dot, extension = base.partition(".")
        key = (place + slash + stem).removeprefix("./")
        if not stem or not dot or base.startswith("__"):
            continue  # what webdataset passes over, too
        if group is None or key != group.key:
            if group is not None:
                yield group
            group = Group(key)
        extension = extension.lower()
        if extension in group.members:
            group.drop = Drop(reason="duplicate_member", detail=f"two members {base}", state="failed_permanent")
        group.members[extension] = member
    if group is not None:
        yield group


def _told(groups: Iterator[Group], unit: Unit) -> Iterator[Group]:
    for number, group in enumerate(groups):
        if number in unit.excluded:
            group.drop = Drop(reason="excluded", detail="by the split of its dataset")
        elif group.drop is None and (odd := _odd(group.key)):
            group.drop = Drop(reason="member_name", detail=odd, state="failed_permanent")
        yield group


def _odd(key: str) -> str:
    """What is wrong with a key, which becomes part of file names."""
    if len(key) > LONGEST_KEY:
        return f"{len(key)} characters, {LONGEST_KEY} are the most"
    if not key.isprintable() or "\\" in key:
        return f"{key!r} holds what is not printable"
    if key.startswith("/") or ".." in key.split("/"):
        return f"{key!r} leads out of its folder"
    return ""


def _batches(groups: Iterator[Group]) -> Iterator[list[Group]]:
    batch: list[Group] = []
    try:
        for group in groups:
            batch.append(group)
            if len(batch) == GATHERED:
                yield batch
                batch = []
    except DataError:
        if batch:
            yield batch  # whole samples before the damage
        raise
    if batch:
        yield batch


def _row(group: Group, unit: Unit, probe: Probe) -> IndexRow | Drop:
    if group.drop is not None:
        return group.drop
    try:
        parts, meta = _parts(group) if unit.fields is None else _mapped(group, unit.fields)
        media = [part for part in parts if isinstance(part, Media)]
        sample = Sample(key=group.key, parts=tuple(media), origin=Origin(uri=unit.name, row=0))
        probed = probe.apply(sample, Work(max_pixels=probe.max_pixels))
        if isinstance(probed, Drop):
            return probed
    except DataError as error:
        return Drop(reason=error.reason, detail=error.detail, state="failed_permanent")
    facts = iter(probed.media)
    listed: list[Part] = []
    for part in parts:
        if isinstance(part, Media):
            medium = next(facts)
            listed.append(_part(group, part.uri or "", part.kind, **commit._media_facts(replace(medium, uri=None))))
        elif isinstance(part, Text):
            inline = part.text.encode()
            checksum = int(crc32c.crc32c(inline))
            told = {"role": part.role, "train": part.train, "inline": inline}
            listed.append(Part(name="", kind="text", offset=0, size=0, crc32c=checksum, **told))  # type: ignore[arg-type]
        else:
            listed.append(_part(group, part, "text", role="caption", train=True))
    if meta:
        listed.append(_part(group, "json", "meta", format=FOREIGN))
    return IndexRow(key=group.key, row=0, origin=unit.name, origin_row=0, parts=tuple(listed))


def _part(group: Group, extension: str, kind: Any, **facts: Any) -> Part:
    member = group.members[extension]
    checksum = int(crc32c.crc32c(member.data))
    return Part(name=extension, kind=kind, offset=member.offset, size=len(member.data), crc32c=checksum, **facts)


def _parts(group: Group) -> tuple[list[Media | Text | str], bool]:
    """Parts in the order of tokens, and whether there is meta. A medium's `uri` is the extension of its member; a text
    that is a member is its extension, one from inside a JSON member a Text."""
    listed: dict[MediaKind, list[str]] = {}
    for extension in group.members:
        if kind := KINDS.get(extension.rpartition(".")[2]):
            listed.setdefault(kind, []).append(extension)
    value = _json(group)
    meta = isinstance(value, dict)
    talk = value if isinstance(value, list) else _messages.find(value) if meta else None
    if talk is not None:
        names: dict[str, Any] = {kind: list(extensions) for kind, extensions in listed.items()}
        found = _messages.parts(names, talk, {kind: kind for kind in listed})
        return [_named(group, part) for part in found], meta
    media: list[Media | Text | str] = [
        Media(kind=kind, uri=extension, data=group.members[extension].data)
        for kind, extensions in listed.items()
        for extension in extensions
    ]
    texts: list[Media | Text | str] = []
    for extension, member in group.members.items():
        if extension.rpartition(".")[2] in TEXTS:
            _check_text(extension, member.data)
            texts.append(extension)
    if not texts and meta:
        caption = next((value[name] for name in CAPTIONS if isinstance(value.get(name), str)), None)
        texts = [] if caption is None else [Text(text=caption)]
    if not media and not texts:
        raise DataError("no_parts", f"no medium or text among {', '.join(group.members)}")
    return media + texts, meta


def _mapped(group: Group, fields: FieldMap) -> tuple[list[Media | Text | str], bool]:
    parts = fields.parts({extension: member.data for extension, member in group.members.items()})
    return list(parts), isinstance(_json(group), dict)


def _json(group: Group) -> Any:
    """What its JSON member holds; None where it has none."""
    if "json" not in group.members:
        return None
    try:
        return json.loads(group.members["json"].data)
    except (ValueError, RecursionError) as error:
        raise DataError("bad_record", f"its json: {error}") from error


def _check_text(extension: str, data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise DataError("text_not_utf8", f"{extension}: {error}") from error


def _named(group: Group, part: Text | Media) -> Text | Media:
    if isinstance(part, Text):
        return part
    if part.uri not in group.members:
        raise DataError("bad_record", f"its conversation names {part.uri or 'bytes of its own'}, not a member")
    return replace(part, data=group.members[part.uri].data)


def _fate(key: str, unit: Unit, row: int, at: int, made: IndexRow | Drop, shard_row: int) -> LedgerRow:
    common: dict[str, Any] = {"row": row, "key": key, "origin": unit.name, "origin_row": at}
    if isinstance(made, Drop):
        state: State = made.state
        return LedgerRow(**common, state=state, reason=made.reason, detail=made.detail, of=made.of)
    media = [part for part in made.parts if part.kind in ("image", "video", "audio")]
    if len(media) == 1:
        common |= {"sha256": media[0].sha256, "height": media[0].height, "width": media[0].width}
    return LedgerRow(**common, state="ok", shard=unit.number, shard_row=shard_row)


def _write(
    folder: Path, unit: Unit, rows: list[IndexRow], fates: list[LedgerRow], size: int, digest: str
) -> ShardEntry:
    files = commit.UnitFiles(number=unit.number)
    entry: dict[str, Any] = {}
    if rows:
        data = indexes.to_bytes(rows)
        _synced(folder / commit.staged(files.index), data)
        entry = {
            "shard": unit.name,
            "shard_bytes": size,
            "shard_sha256": digest,
            "index": files.index,
            "index_sha256": hashlib.sha256(data).hexdigest(),
            "index_crc32c": int(crc32c.crc32c(data)),
        }
    path = folder / commit.staged(files.ledger)
    pq.write_table(ledger.to_table(fates), path, compression="zstd")
    _synced(path, path.read_bytes())
    fsync_folder(path.parent)
    return ShardEntry(
        unit=unit.number,
        first=0,
        rows=len(rows),
        input_first=unit.input_first,
        input_rows=len(fates),
        ledger=files.ledger,
        ledger_sha256=sha256_file(path),
        **entry,
    )


def _synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sha256(source: Any) -> str:
    digest = hashlib.sha256()
    for at in range(0, source.size, 8 << 20):
        digest.update(source.read(at, min(8 << 20, source.size - at)))
    return digest.hexdigest()
