"""Small real datasets for tests: photographs of scikit-image and scikit-learn, in shards of our own."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path

import crc32c
import numpy as np
from PIL import Image
from skimage import data as skimage_data
from sklearn.datasets import load_sample_images

from mmdata import ledger, rng
from mmdata.ledger import LedgerRow
from mmdata.shards import index as indexes
from mmdata.shards import manifest as manifests
from mmdata.shards.index import IndexRow, Part
from mmdata.shards.manifest import Manifest
from mmdata.shards.table import ShardEntry
from mmdata.shards.tar import TarWriter

PHOTOGRAPHS = {
    "astronaut": "a portrait of an astronaut in an orange suit before a flag",
    "chelsea": "a ginger cat looks to the side",
    "coffee": "a cup of coffee on a wooden table with a spoon",
    "rocket": "a rocket on its launch pad at night",
    "camera": "a man with a camera on a tripod in a field, in black and white",
    "china": "a Chinese temple with curved roofs under a grey sky",
    "flower": "a pink dahlia in front of dark leaves",
}


@functools.cache
def photograph(name: str) -> np.ndarray:
    """uint8 [H, W, 3]"""
    if name in ("china", "flower"):
        found = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
        return found[name]
    pixels = getattr(skimage_data, name)()
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def jpeg(number: int) -> tuple[bytes, str, int, int]:
    """The number-th picture: bytes, caption, height, width. A keyed crop of a photograph, never the same size twice."""
    draw = rng.generator("fixture", number)
    name = list(PHOTOGRAPHS)[number % len(PHOTOGRAPHS)]
    pixels = photograph(name)
    height, width = (int(draw.integers(side // 3, side // 2)) for side in pixels.shape[:2])
    top, left = int(draw.integers(pixels.shape[0] - height)), int(draw.integers(pixels.shape[1] - width))
    buffer = io.BytesIO()
    Image.fromarray(pixels[top : top + height, left : left + width]).save(buffer, "JPEG", quality=90)
    words = " and again" * int(draw.integers(0, 12))
    return buffer.getvalue(), f"{PHOTOGRAPHS[name]}{words}", height, width


def write_dataset(
    folder: Path,
    samples: int = 40,
    per_shard: int = 16,
    *,
    instead: Mapping[int, bytes] | None = None,
    text_only: Collection[int] = (),
    meta: Mapping[int, Mapping[str, object]] | None = None,
) -> Path:
    """A finished dataset of `samples` image-caption pairs; `instead` gives other bytes to the images of some rows,
    under the facts and checksums of a build that believed them; rows of `text_only` have no image,
    and `meta` gives some their meta."""
    for name in ("shards", "index", "ledger"):
        (folder / name).mkdir(parents=True)
    entries = [
        _write_unit(folder, unit, range(first, min(first + per_shard, samples)), instead or {}, text_only, meta or {})
        for unit, first in enumerate(range(0, samples, per_shard))
    ]
    manifests.write(
        folder,
        Manifest(
            created_by="tests",
            spec={},
            spec_digest="",
            inputs=[],
            input_rows=samples,
            samples=samples,
            counts={**ledger.counts([]), "ok": samples},
            reasons={},
            shards=entries,
            root_digest=manifests.root_digest(entries),
        ),
    )
    return folder


def _write_unit(
    folder: Path,
    unit: int,
    rows: range,
    instead: Mapping[int, bytes],
    text_only: Collection[int],
    meta: Mapping[int, Mapping[str, object]],
) -> ShardEntry:
    names = (f"shards/{unit:06d}.tar", f"index/{unit:06d}.arrow", f"ledger/{unit:06d}.parquet")
    index_rows = []
    with open(folder / names[0], "wb") as file:
        writer = TarWriter(file)
        for row in rows:
            data, caption, height, width = jpeg(row)
            data = instead.get(row, data)
            facts = {"kind": "image", "format": "jpeg", "height": height, "width": width}
            image = () if row in text_only else (_part(writer, row, "jpg", data, **facts),)
            text = _part(writer, row, "txt", caption.encode(), kind="text", role="caption", train=True)
            told = (
                (_part(writer, row, "json", json.dumps({"meta": meta[row]}).encode(), kind="meta"),)
                if row in meta
                else ()
            )
            parts = (text, *image, *told)
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


def _part(writer: TarWriter, row: int, name: str, data: bytes, **facts: object) -> Part:
    offset = writer.add(f"{row:09d}.{name}", data)
    return Part(name=name, offset=offset, size=len(data), crc32c=int(crc32c.crc32c(data)), **facts)  # type: ignore[arg-type]


def _ledger(rows: range) -> bytes:
    import pyarrow.parquet as pq

    table = ledger.to_table(
        LedgerRow(row=row, key=f"{row:09d}", origin="tests", origin_row=row, state="ok") for row in rows
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
