"""MDS, the format of MosaicML Streaming (version 2), readable by its `StreamingDataset` without unsafe types.

A shard is `u32 samples, u32 offsets[samples + 1], JSON of the columns, samples`; a sample is the u32 sizes of its
columns and then their bytes; `index.json` lists shards with size and sha256 (streaming/base/format/mds/writer.py).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmdata.errors import DataError
from mmdata.outputs import _rows
from mmdata.outputs._rows import Layout
from mmdata.shards.dataset import Dataset
from mmdata.shards.storage import write_atomic
from mmdata.types import Sample

SHARD_BYTES = 1 << 26
"""At most, unless one sample alone is larger; MosaicML's own default."""
_LARGEST = 2**32 - 1


def write(dataset: Dataset, positions: np.ndarray, folder: Path, *, told: Callable[[int], None]) -> None:
    """Write shards and `index.json` into `folder`.

    Columns are `key`, `text` (empty where there is none), `messages` and `meta` (JSON), and of media `image` (or
    `image_0`, `image_1`, ... where a sample has several), `video` and `audio`. They are `bytes`, empty where a sample
    has no such medium; a picture is `jpeg`, which Streaming decodes, where all are JPEG and none is missing. `told`
    hears of each number of samples done. Raises DataError as reading does and for a sample of 4 GiB and more.
    """
    layout = _rows.layout(dataset, positions)
    columns = dict(
        sorted({**_columns(layout), "key": "str", "text": "str", "messages": "json", "meta": "json"}.items())
    )
    config = {
        "column_encodings": list(columns.values()),
        "column_names": list(columns),
        "column_sizes": [None] * len(columns),
        "compression": None,
        "format": "mds",
        "hashes": ["sha256"],
        "size_limit": SHARD_BYTES,
        "version": 2,
    }
    shards: list[dict[str, Any]] = []
    held: list[bytes] = []
    size = 0
    for sample, row in _rows.rows(dataset, positions):
        encoded = _encode(columns, row, sample, layout)
        if held and size + len(encoded) > SHARD_BYTES:
            shards.append(_shard(folder, len(shards), held, config))
            held, size = [], 0
        held.append(encoded)
        size += len(encoded)
        told(1)
    if held:
        shards.append(_shard(folder, len(shards), held, config))
    write_atomic(folder / "index.json", json.dumps({"shards": shards, "version": 2}, sort_keys=True).encode())


def _columns(layout: Layout) -> dict[str, str]:
    named: dict[str, str] = {}
    for kind, most in layout.most.items():
        jpeg = kind == "image" and layout.always[kind] and layout.formats[kind] == {"jpeg"}
        for at in range(most):
            named[kind if most == 1 else f"{kind}_{at}"] = "jpeg" if jpeg else "bytes"
    return named


def _encode(columns: dict[str, str], row: dict[str, Any], sample: Sample, layout: Layout) -> bytes:
    media: dict[str, bytes] = {}
    for kind, most in layout.most.items():
        for at, medium in enumerate(medium for medium in sample.media if medium.kind == kind):
            media[kind if most == 1 else f"{kind}_{at}"] = bytes(medium.data or b"")
    values = {
        "key": row["key"].encode(),
        "text": (row["text"] or "").encode(),
        "messages": json.dumps(row["messages"], ensure_ascii=False).encode(),
        "meta": row["meta"].encode(),
    }
    data = [values[name] if name in values else media.get(name, b"") for name in columns]
    if sum(map(len, data)) > _LARGEST - SHARD_BYTES:
        raise DataError("sample_size", f"{sample.key}: MDS holds samples below 4 GiB")
    return struct.pack(f"<{len(data)}I", *map(len, data)) + b"".join(data)


def _shard(folder: Path, number: int, samples: list[bytes], config: dict[str, Any]) -> dict[str, Any]:
    described = json.dumps(config, sort_keys=True).encode()
    first = 4 + 4 * (len(samples) + 1) + len(described)
    offsets = np.cumsum([first, *map(len, samples)], dtype=np.uint64).astype("<u4")
    data = b"".join([struct.pack("<I", len(samples)), offsets.tobytes(), described, *samples])
    name = f"shard.{number:05d}.mds"
    (folder / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    raw = {"basename": name, "bytes": len(data), "hashes": {"sha256": digest}}
    return {**config, "raw_data": raw, "samples": len(samples), "zip_data": None}
