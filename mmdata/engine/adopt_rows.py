"""Adopting a Parquet or Arrow file of media: its rows as rows of our index, where they lie, and a fate for each."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa

from mmdata.checksum import crc32c
from mmdata.decode.work import Work
from mmdata.engine import adopt, commit
from mmdata.engine.adopt import Digest, Unit
from mmdata.errors import DataError
from mmdata.ledger import Fates
from mmdata.shards import cache as caches
from mmdata.shards import rows as tables
from mmdata.shards.access import local_path, open_source
from mmdata.shards.index import FOREIGN, IndexRow, Part
from mmdata.shards.index_columns import IndexColumns
from mmdata.shards.table import ShardEntry
from mmdata.sources._columns import Columns, columns
from mmdata.sources._naming import Naming
from mmdata.sources._rows import key_of, members, meta_of, parts, value_of
from mmdata.sources._tables import printable
from mmdata.steps.probe import Probe
from mmdata.types import Drop, Media, Origin, Sample


def adopt_rows(
    folder: Any,
    unit: Unit,
    *,
    verify: Literal["full", "header"],
    keys: dict[str, str],
    pool: ThreadPoolExecutor,
    naming: Naming = Naming(),  # noqa: B008 frozen
    digest: Digest = "crc32c",
) -> tuple[ShardEntry, Fates]:
    """As `adopt.adopt`, of a table. The key of a row is the name of its file and its number, or what its key column
    says. Of a damaged row group every row is counted under that reason, and the others are taken."""
    cache = None if local_path(unit.uri) is not None else caches.default()
    plain = open_source(unit.uri, cache=cache)
    stem = printable(PurePosixPath(unit.name.partition("?")[0]).stem)
    made_rows = IndexColumns(unit.name, sums=digest != "none")
    fates = Fates(unit=unit.number, origin=unit.name, first=unit.input_first)

    def note(key: str, made: IndexRow | Drop) -> None:
        number = unit.input_first + len(fates)
        if isinstance(made, IndexRow) and key in keys:
            detail = f"a sample of {keys[key]} has the same key"
            made = Drop(reason="duplicate_key", detail=detail, state="duplicate", of=key)
        if isinstance(made, IndexRow):
            keys[key] = unit.name
            made_rows.add(replace(made, row=number))
        fates.add(adopt._fate(key, unit, number, len(fates), made, len(made_rows) - 1))

    try:
        source = tables.open_shard(unit.uri, cache=cache)
        assert isinstance(source, tables.RowSource), unit.uri
        told = columns(source.schema, unit.name, naming)
        probe = adopt.prober(verify, digest)
        for number, (first, end) in enumerate(
            zip(source.firsts[:-1].tolist(), source.firsts[1:].tolist(), strict=True)
        ):
            try:
                group = source.group(number)
            except DataError as error:
                for row in range(first, end):
                    note(f"{stem}/{row:09d}", _drop(error))
                continue

            def take(at: int, group: pa.Table = group, first: int = first) -> tuple[str, IndexRow | Drop]:
                return _row(group, at, first + at, f"{stem}/{first + at:09d}", unit, told, probe)

            for key, made in pool.map(take, range(group.num_rows)):
                note(key, made)
        if source.damage:
            note("", Drop(reason="shard_cut", detail=f"{unit.name}: {source.damage}", state="failed_permanent"))
        source.close()
    except DataError as error:
        note("", _drop(error))
    whole = adopt._sha256(plain) if made_rows.sums else None
    entry = adopt.write(folder, unit, made_rows, fates, plain.size, whole)
    plain.close()
    return entry, fates


def _drop(error: DataError) -> Drop:
    return Drop(reason=error.reason, detail=error.detail, state="failed_permanent")


def _row(
    table: pa.Table, at: int, row: int, key: str, unit: Unit, told: Columns, probe: Probe
) -> tuple[str, IndexRow | Drop]:
    try:
        if told.key:
            key = key_of(value_of(table, told.key, at))
        names, found = members(table, at, row, told)
        made = parts(table, at, told, names, found)
        media = tuple(part for part in made if isinstance(part, Media))
        sample = Sample(key=key, parts=media, origin=Origin(uri=unit.name, row=row))
        probed = probe.apply(sample, Work(max_pixels=probe.max_pixels))
        if isinstance(probed, Drop):
            return key, probed
        meta = meta_of(table, at, told)
    except DataError as error:
        return key, _drop(error)
    facts, listed = iter(probed.media), []
    for part in made:
        if isinstance(part, Media):
            member = found[part.uri or ""]
            offset, held = member.offset, member.data or b""
            own = commit._media_facts(replace(next(facts), uri=None))
            crc = int(crc32c(held))
            listed.append(Part(name=part.uri or "", kind=part.kind, offset=offset, size=len(held), crc32c=crc, **own))
        else:
            listed.append(_inline("text", printable(part.text).encode(), role=part.role, train=part.train))
    if meta:
        listed.append(_inline("meta", json.dumps(meta).encode(), format=FOREIGN))
    return key, IndexRow(key=key, row=row, origin=unit.name, origin_row=row, parts=tuple(listed))


def _inline(kind: Any, data: bytes, **facts: Any) -> Part:
    return Part(name="", kind=kind, offset=0, size=0, crc32c=int(crc32c(data)), inline=data, **facts)
