"""Parquet that `datasets.load_dataset` opens with images, sounds and videos as what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmdata.errors import DataError, SpecError
from mmdata.outputs import _rows
from mmdata.outputs._rows import KINDS, Layout
from mmdata.shards.dataset import Dataset
from mmdata.types import Sample

GROUP_BYTES = 64 << 20
"""Of media in a row group: what a reader of one row has to read at most, about."""
FILE_BYTES = 512 << 20
"""Of media in a file."""


def write(
    dataset: Dataset, positions: np.ndarray, folder: Path, *, split_by: str | None, told: Callable[[int], None]
) -> list[str]:
    """Write `data/SPLIT-00000-of-00003.parquet` into `folder` and return the splits.

    Columns are `key`, `image` (or `images`, a list, where a sample has several), `video`, `audio`, `text`, `messages`
    and `meta`, those that no sample has left out; a medium is struct<bytes, path> with the feature that `datasets`
    knows it by. `split_by` names the field of `meta` that says which split a sample is in; without it all are `train`.
    `told` hears of each number of samples done. Raises DataError as reading does, and for a sample without its split.
    """
    layout = _rows.layout(dataset, positions)
    schema = _schema(layout)
    (folder / "data").mkdir(parents=True)
    files: dict[str, _Files] = {}
    for sample, row in _rows.rows(dataset, positions):
        split = _split(sample, split_by)
        if split not in files:
            files[split] = _Files(folder / "data", split, schema)
        files[split].add({**row, **_media(sample, layout)}, sum(len(medium.data or b"") for medium in sample.media))
        told(1)
    for written in files.values():
        written.close()
    return sorted(files)


def _schema(layout: Layout) -> pa.Schema:
    try:
        from datasets import Audio, Features, Image, List, Value, Video
    except ImportError as error:
        raise SpecError(f"--to parquet needs the package datasets: {error}") from error
    features: dict[str, Any] = {"key": Value("string")}
    for kind, feature in zip(KINDS, (Image(), Video(), Audio()), strict=True):
        if kind in layout.most:
            features[_name(kind, layout)] = List(feature) if layout.most[kind] > 1 else feature
    content = List({"type": Value("string"), "text": Value("string")})
    features["text"] = Value("string")
    features["messages"] = List({"role": Value("string"), "content": content})
    features["meta"] = Value("string")
    return Features(features).arrow_schema


def _name(kind: str, layout: Layout) -> str:
    return f"{kind}s" if layout.most[kind] > 1 else kind  # type: ignore[index]


def _media(sample: Sample, layout: Layout) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for kind in layout.most:
        held = [
            {"bytes": medium.data, "path": f"{sample.key}.{at}.{(medium.format or 'bin').lower()}"}
            for at, medium in enumerate(medium for medium in sample.media if medium.kind == kind)
        ]
        values[_name(kind, layout)] = held if layout.most[kind] > 1 else next(iter(held), None)
    return values


def _split(sample: Sample, split_by: str | None) -> str:
    if split_by is None:
        return "train"
    split = sample.meta.get(split_by)
    if not isinstance(split, str) or not split.replace("_", "").isalnum():
        raise DataError("split_missing", f"{sample.key}: meta.{split_by} is {split!r}, no name of a split")
    return split


class _Files:
    """The files of a split: closed when full, named by their number once all are there."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self._folder, self._split, self._schema = folder, split, schema
        self._paths: list[Path] = []
        self._rows: list[dict[str, Any]] = []
        self._held = self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any], size: int) -> None:
        self._rows.append(row)
        self._held += size
        if self._held >= GROUP_BYTES or len(self._rows) >= 10_000:
            self._flush()
        if self._bytes >= FILE_BYTES:
            self._end()

    def close(self) -> None:
        self._flush()
        self._end()
        for number, path in enumerate(self._paths):
            path.rename(self._folder / f"{self._split}-{number:05d}-of-{len(self._paths):05d}.parquet")

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._paths.append(self._folder / f"{self._split}-{len(self._paths):05d}.writing")
            # Media are compressed already: only texts gain.
            small = ("key", "text", "messages", "meta")
            codec = {name: "ZSTD" if name in small else "NONE" for name in self._schema.names}
            self._writer = pq.ParquetWriter(self._paths[-1], self._schema, compression=codec, use_dictionary=False)
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes, self._held = [], self._bytes + self._held, 0

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._bytes = None, 0
