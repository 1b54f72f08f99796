"""Datasets of facts for tests of planning: real shards and indexes whose media are a byte each, never decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import crc32c

from mmdata import ledger, rng
from mmdata.shards import index as indexes
from mmdata.shards import manifest as manifests
from mmdata.shards.index import IndexRow, Part
from mmdata.shards.manifest import Manifest
from mmdata.shards.table import ShardEntry
from mmdata.shards.tar import TarWriter
from mmdata.types import Media, Text
from tests.dataset_fixture import _ledger

WORDS = [
    "a",
    "red",
    "fox",
    "looks",
    "at",
    "the",
    "small",
    "boat",
    "on",
    "a",
    "lake",
    "while",
    "it",
    "rains",
    "and",
    "nobody",
    "sees",
    "the",
    "moon",
]
_FACTS = ("height", "width", "frames", "fps", "seconds", "sample_rate", "channels", "samples")

Parts = Sequence[Text | Media]


def write_facts(folder: Path, samples: Sequence[Parts], per_shard: int = 1000) -> Path:
    """A finished dataset of these samples; keys are their numbers."""
    for name in ("shards", "index", "ledger"):
        (folder / name).mkdir(parents=True)
    entries = [
        _write_unit(folder, unit, first, samples[first : first + per_shard])
        for unit, first in enumerate(range(0, len(samples), per_shard))
    ]
    manifests.write(
        folder,
        Manifest(
            created_by="tests",
            spec={},
            spec_digest="",
            inputs=[],
            input_rows=len(samples),
            samples=len(samples),
            counts={**ledger.counts([]), "ok": len(samples)},
            reasons={},
            shards=entries,
            root_digest=manifests.root_digest(entries),
        ),
    )
    return folder


def mixed(count: int, *, seed: int = 0, images: float = 0.7, words: int = 60) -> list[Parts]:
    """Captions of up to `words` words and the facts of a picture of its own size, or a document without one."""
    draw = rng.generator("planning", seed)
    samples: list[Parts] = []
    for number in range(count):
        text = f"{number} " + " ".join(WORDS[i] for i in draw.integers(0, len(WORDS), int(draw.integers(1, words))))
        if draw.random() < images:
            height, width = (int(side) for side in draw.integers(64, 1600, 2))
            samples.append([Media(kind="image", height=height, width=width), Text(text=text)])
        else:
            samples.append([Text(text=text)])
    return samples


def _write_unit(folder: Path, unit: int, first: int, samples: Sequence[Parts]) -> ShardEntry:
    names = (f"shards/{unit:06d}.tar", f"index/{unit:06d}.arrow", f"ledger/{unit:06d}.parquet")
    rows = range(first, first + len(samples))
    index_rows = []
    with open(folder / names[0], "wb") as file:
        writer = TarWriter(file)
        for row, sample in zip(rows, samples, strict=True):
            parts = tuple(_part(writer, row, number, part) for number, part in enumerate(sample))
            index_rows.append(IndexRow(key=f"{row:09d}", row=row, origin="tests", origin_row=row, parts=parts))
        writer.finish()
    index = indexes.to_bytes(index_rows)
    (folder / names[1]).write_bytes(index)
    (folder / names[2]).write_bytes(_ledger(rows))
    shas = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    return ShardEntry(
        unit=unit,
        first=rows.start,
        rows=len(rows),
        input_first=rows.start,
        input_rows=len(rows),
        shard=names[0],
        shard_bytes=(folder / names[0]).stat().st_size,
        shard_sha256=shas[0],
        index=names[1],
        index_sha256=shas[1],
        index_crc32c=int(crc32c.crc32c(index)),
        ledger=names[2],
        ledger_sha256=shas[2],
    )


def _part(writer: TarWriter, row: int, number: int, part: Text | Media) -> Part:
    data = part.text.encode() if isinstance(part, Text) else b"."
    name = f"{number}.{'txt' if isinstance(part, Text) else 'bin'}"
    facts: dict[str, Any]
    if isinstance(part, Text):
        facts = {"kind": "text", "role": part.role, "train": part.train}
    else:
        facts = {"kind": part.kind, "role": part.role, **{name: getattr(part, name) for name in _FACTS}}
    offset = writer.add(f"{row:09d}.{name}", data)
    return Part(name=name, offset=offset, size=len(data), crc32c=int(crc32c.crc32c(data)), **facts)
