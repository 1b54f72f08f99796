"""Adopting a tar that another has written: its samples as rows of our index, where they lie, and a fate for each."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmdata import ledger
from mmdata.checksum import crc32c
from mmdata.decode.glance import MAX_PIXELS, glance
from mmdata.engine import adopt_plain, commit
from mmdata.errors import DataError
from mmdata.ledger import Fates, LedgerRow
from mmdata.shards.access import open_source
from mmdata.shards.foreign_tar import TarPass
from mmdata.shards.index import FOREIGN, IndexRow, Part
from mmdata.shards.index_columns import IndexColumns
from mmdata.shards.storage import fsync_folder
from mmdata.shards.table import ShardEntry
from mmdata.sources._energon import FieldMap
from mmdata.sources._members import Group, groups, mapped, odd, parts
from mmdata.types import Drop, Media, Origin, Sample, State, Text

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from mmdata.steps.probe import Probe

Digest = Literal["crc32c", "sha256", "none"]
"""What is taken of each medium: its crc32c, as of every part, its sha256 as well, or nothing; without sums of parts
there is none of the tar either."""
GATHERED = 64
"""Samples that are probed side by side."""


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


@functools.cache
def prober(verify: Literal["full", "header"], digest: Digest) -> Probe:
    """What looks at the media of others: their bytes are never changed."""
    from mmdata.steps.probe import Probe  # where a glance is not enough: with it come specs and codecs

    return Probe(
        verify=verify,
        orientation="keep",
        cmyk="reject",
        sixteen_bit="reject",
        animated="reject",
        digest="sha256" if digest == "sha256" else "none",
    )


def adopt(
    folder: Path,
    unit: Unit,
    *,
    verify: Literal["full", "header"],
    keys: dict[str, str],
    pool: ThreadPoolExecutor | None = None,
    digest: Digest = "crc32c",
) -> tuple[ShardEntry, Fates]:
    """Read a tar once and write its index and ledger into the staging area of `folder`.

    `pool` decodes media where `verify` is full. `keys` holds the keys of the dataset so far, each with the tar it came
    from, and is added to. A tar that is damaged gives the whole samples before the damage, and one row that says where
    it is. Raises RunError when the storage fails, OSError where the dataset cannot be written.
    """
    source = open_source(unit.uri)
    size = source.size
    columns = IndexColumns(unit.name, sums=digest != "none")
    fates = Fates(unit=unit.number, origin=unit.name, first=unit.input_first)

    def note(key: str, made: IndexRow | Drop) -> None:
        if isinstance(made, IndexRow):
            if made.key in keys:
                made = _duplicate(made.key, keys[made.key])
            else:
                keys[made.key] = unit.name
                columns.add(made)
        fates.add(_fate(key, unit, unit.input_first + len(fates), len(fates), made, len(columns) - 1))

    def refused(number: int, key: str) -> bool:
        if number in unit.excluded:
            note(key, EXCLUDED)
        elif key in keys:
            note(key, _duplicate(key, keys[key]))
        else:
            keys[key] = unit.name
            return False
        return True

    def new(number: int, found: list[str]) -> bool:
        own = dict.fromkeys(found, unit.name)
        if unit.excluded or len(own) < len(found) or not keys.keys().isdisjoint(own):
            return False
        keys.update(own)
        return True

    def other(number: int, group: Group) -> None:
        from mmdata.sources._tables import printable  # with what reads tables

        (group,) = _told(iter([group]), unit, number)
        note(printable(group.key), _row(group, unit, prober(verify, digest), number))

    try:
        if verify == "full" or digest == "sha256" or unit.fields is not None:
            from mmdata.sources._tables import printable

            tar = TarPass(source)
            for group, made in _made(_told(groups(tar.members()), unit), unit, prober(verify, digest), pool):
                note(printable(group.key), made)
        else:
            tar = TarPass(source, wanted=None if columns.sums else adopt_plain.nothing)
            adopt_plain.Reader(
                tar,
                source,
                columns,
                fates,
                input_first=unit.input_first,
                max_pixels=MAX_PIXELS,
                refused=refused,
                new=new,
                other=other,
            ).run()
        whole = tar.sha256() if columns.sums else None
    except DataError as error:
        note("", Drop(reason=error.reason, detail=error.detail, state="failed_permanent"))
        whole = _sha256(source) if columns.sums else None
    finally:
        source.close()
    return write(folder, unit, columns, fates, size, whole), fates


EXCLUDED = Drop(reason="excluded", detail="by the split of its dataset")


def _duplicate(key: str, name: str) -> Drop:
    return Drop(reason="duplicate_key", detail=f"a sample of {name} has the same key", state="duplicate", of=key)


def _told(groups: Iterator[Group], unit: Unit, first: int = 0) -> Iterator[Group]:
    for number, group in enumerate(groups, first):
        if number in unit.excluded:
            group.drop = EXCLUDED
        elif group.drop is None and (wrong := odd(group.key)):
            group.drop = Drop(reason="member_name", detail=wrong, state="failed_permanent")
        yield group


def _made(
    groups: Iterator[Group], unit: Unit, probe: Probe, pool: ThreadPoolExecutor | None
) -> Iterator[tuple[Group, IndexRow | Drop]]:
    """Each group with what it gives, in order. To read headers takes less than to hand them to a thread."""
    if probe.verify == "header":
        yield from ((group, _row(group, unit, probe, at)) for at, group in enumerate(groups))
        return
    assert pool is not None
    at = 0
    for batch in _batches(groups):
        numbers = range(at, at + len(batch))
        yield from zip(batch, pool.map(lambda g, n: _row(g, unit, probe, n), batch, numbers), strict=True)
        at += len(batch)


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


def _row(group: Group, unit: Unit, probe: Probe, at: int) -> IndexRow | Drop:
    if group.drop is not None:
        return group.drop
    listed: list[Part] = []
    try:
        told, meta = parts(group) if unit.fields is None else mapped(group, unit.fields)
        for part in told:
            if isinstance(part, Media):
                found = _glanced(group, part, probe) or _probed(group, part, probe, unit)
                if isinstance(found, Drop):
                    return found
                listed.append(found)
            elif isinstance(part, Text):
                inline = part.text.encode("utf-8", "replace")  # JSON may hold halves of surrogate pairs
                checksum = int(crc32c(inline))
                own = {"role": part.role, "train": part.train, "inline": inline}
                listed.append(Part(name="", kind="text", offset=0, size=0, crc32c=checksum, **own))  # type: ignore[arg-type]
            else:
                listed.append(_part(group, part, "text", role="caption", train=True))
    except DataError as error:
        return Drop(reason=error.reason, detail=error.detail, state="failed_permanent")
    if meta:
        listed.append(_part(group, "json", "meta", format=FOREIGN))
    return IndexRow(key=group.key, row=unit.input_first + at, origin=unit.name, origin_row=at, parts=tuple(listed))


def _glanced(group: Group, media: Media, probe: Probe) -> Part | None:
    """As `_probed`, of a common picture whose header alone is wanted; None where it takes more than a glance."""
    if media.kind != "image" or probe.verify == "full" or media.data is None:
        return None
    seen = glance(media.data, max_pixels=probe.max_pixels)
    if seen is None:
        return None
    return _part(
        group,
        media.uri or "",
        "image",
        role=media.role,
        format=seen.format,
        height=seen.height,
        width=seen.width,
        mode=seen.mode,
        frames=1,
        sha256=hashlib.sha256(media.data).hexdigest() if probe.digest == "sha256" else None,
        verified="header",
    )


def _probed(group: Group, media: Media, probe: Probe, unit: Unit) -> Part | Drop:
    from mmdata.decode.work import Work

    sample = Sample(key=group.key, parts=(media,), origin=Origin(uri=unit.name, row=0))
    probed = probe.apply(sample, Work(max_pixels=probe.max_pixels))
    if isinstance(probed, Drop):
        return probed
    (medium,) = probed.media
    return _part(group, media.uri or "", media.kind, **commit._media_facts(replace(medium, uri=None)))


def _part(group: Group, extension: str, kind: Any, **facts: Any) -> Part:
    member = group.members[extension]
    data = member.data or b""
    checksum = int(crc32c(data))
    return Part(name=extension, kind=kind, offset=member.offset, size=len(data), crc32c=checksum, **facts)


def _fate(key: str, unit: Unit, row: int, at: int, made: IndexRow | Drop, shard_row: int) -> LedgerRow:
    common: dict[str, Any] = {"row": row, "key": key, "origin": unit.name, "origin_row": at}
    if isinstance(made, Drop):
        state: State = made.state
        return LedgerRow(**common, state=state, reason=made.reason, detail=made.detail, of=made.of)
    media = [part for part in made.parts if part.kind in ("image", "video", "audio")]
    if len(media) == 1:
        common |= {"sha256": media[0].sha256, "height": media[0].height, "width": media[0].width}
    return LedgerRow(**common, state="ok", shard=unit.number, shard_row=shard_row)


def write(folder: Path, unit: Unit, columns: IndexColumns, fates: Fates, size: int, digest: str | None) -> ShardEntry:
    """Write index and ledger of a unit whose tar or table has `size` bytes, and this sha256, if it was taken."""
    files = commit.UnitFiles(number=unit.number)
    entry: dict[str, Any] = {}
    if len(columns):
        data = columns.to_bytes()
        _synced(folder / commit.staged(files.index), data)
        entry = {
            "shard": unit.name,
            "shard_bytes": size,
            "shard_sha256": digest,
            "index": files.index,
            "index_sha256": hashlib.sha256(data).hexdigest(),
            "index_crc32c": int(crc32c(data)),
        }
    path, rows = folder / commit.staged(files.ledger), ledger.to_bytes(fates.to_table())
    _synced(path, rows)
    fsync_folder(path.parent)
    return ShardEntry(
        unit=unit.number,
        first=0,
        rows=len(columns),
        input_first=unit.input_first,
        input_rows=len(fates),
        ledger=files.ledger,
        ledger_sha256=hashlib.sha256(rows).hexdigest(),
        **entry,
    )


def _synced(path: Path, data: bytes | bytearray) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sha256(source: Any) -> str:
    digest = hashlib.sha256()
    for at in range(0, source.size, 8 << 20):
        digest.update(source.read(at, min(8 << 20, source.size - at)))
    return digest.hexdigest()
