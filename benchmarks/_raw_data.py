"""Datasets of random bytes with a short text each, in so many shards: for benchmarks of reading and of starting."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import crc32c
import numpy as np
import pyarrow.parquet as pq

from mmdata import ledger
from mmdata.ledger import LedgerRow
from mmdata.shards import index as indexes
from mmdata.shards import manifest as manifests
from mmdata.shards.index import IndexRow, Part
from mmdata.shards.manifest import Manifest
from mmdata.shards.table import ShardEntry
from mmdata.shards.tar import TarWriter


def write_raw(folder: Path, count: int, size: int, shards: int) -> None:
    """`count` samples of `size` bytes in `shards` plain WebDataset tars (or as many as have a sample).

    The files are those of a build. They are written without one, which would sync each to the disk and take minutes
    for a thousand shards."""
    for name in ("shards", "index", "ledger"):
        (folder / name).mkdir(parents=True)
    draw = np.random.Generator(np.random.Philox(0))
    each = -(-count // shards)
    entries = [
        _write_unit(folder, unit, range(first, min(first + each, count)), size, draw)
        for unit, first in enumerate(range(0, count, each))
    ]
    manifests.write(
        folder,
        Manifest(
            created_by="benchmarks",
            spec={},
            spec_digest="",
            inputs=[],
            input_rows=count,
            samples=count,
            counts={**ledger.counts([]), "ok": count},
            reasons={},
            shards=entries,
            root_digest=manifests.root_digest(entries),
        ),
    )


def _write_unit(folder: Path, unit: int, rows: range, size: int, draw: np.random.Generator) -> ShardEntry:
    names = (f"shards/{unit:06d}.tar", f"index/{unit:06d}.arrow", f"ledger/{unit:06d}.parquet")
    tar = io.BytesIO()
    writer = TarWriter(tar)
    samples = [_write_sample(writer, row, draw.bytes(size)) for row in rows]
    writer.finish()
    index = indexes.to_bytes(samples)
    ends = io.BytesIO()
    pq.write_table(
        ledger.to_table(LedgerRow(row=s.row, key=s.key, origin=s.origin, origin_row=0, state="ok") for s in samples),
        ends,
    )
    files = (tar.getvalue(), index, ends.getvalue())
    for name, data in zip(names, files, strict=True):
        (folder / name).write_bytes(data)
    shas = [hashlib.sha256(data).hexdigest() for data in files]
    return ShardEntry(
        unit=unit,
        first=rows.start,
        rows=len(rows),
        input_first=rows.start,
        input_rows=len(rows),
        shard=names[0],
        shard_bytes=len(files[0]),
        shard_sha256=shas[0],
        index=names[1],
        index_sha256=shas[1],
        index_crc32c=int(crc32c.crc32c(index)),
        ledger=names[2],
        ledger_sha256=shas[2],
    )


def _write_sample(writer: TarWriter, row: int, data: bytes) -> IndexRow:
    key, origin = f"{row:09d}", f"{row:06d}.jpg"
    meta = {"key": key, "origin": origin, "origin_row": 0, "sha256": hashlib.sha256(data).hexdigest()}
    members = (
        ("bin", data, {"kind": "image", "sha256": meta["sha256"], "verified": "none"}),
        ("txt", f"sample {row}".encode(), {"kind": "text", "role": "caption", "train": True}),
        ("json", json.dumps(meta).encode(), {"kind": "meta"}),
    )
    parts = tuple(
        Part(
            name=name,
            offset=writer.add(f"{key}.{name}", content),
            size=len(content),
            crc32c=int(crc32c.crc32c(content)),
            **facts,  # type: ignore[arg-type]
        )
        for name, content, facts in members
    )
    return IndexRow(key=key, row=row, origin=origin, origin_row=0, parts=parts)
