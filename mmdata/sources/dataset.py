"""A dataset of our own as a source, to filter, shard or merge it again: keys, facts and origins stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from mmdata.errors import DataError, SpecError
from mmdata.registry import register
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.spec import InputPath, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, Origin, Sample, Text


@register("source", "dataset")
class OwnDataset(SourceSpec):
    """A finished dataset, built or indexed by mmdata. Samples keep their key, facts, meta and origin; what was removed
    from it (`mmdata.forget`) ends as `filtered: forgotten`. To merge several, put them into a `mixture`."""

    kind: Literal["dataset"] = "dataset"
    path: InputPath = runtime()
    """Its folder, or any URL that fsspec knows."""

    def open(self) -> Source:
        try:
            return _Samples(open_dataset(self.path))
        except FileNotFoundError as error:
            raise SpecError(f"source.path: {error}") from error


class _Samples:
    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._removed = dataset.masked()
        self._why = {stone.key: stone.reason for removal in dataset.removals() for stone in removal.stones}

    def inputs(self) -> list[dict[str, Any]]:
        manifest, removals = self._dataset.manifest, self._dataset.removals()
        removed = {"removals": removals[-1].digest} if removals else {}
        return [{"name": ".", "samples": manifest.samples, "root_digest": manifest.root_digest, **removed}]

    def count(self) -> int | None:
        return len(self._dataset)

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        end = len(self._dataset) if stop is None else min(stop, len(self._dataset))
        firsts = self._dataset.shard_firsts
        for position in range(start, end):
            number = int(np.searchsorted(firsts, position, side="right")) - 1
            shard = self._dataset.folder.locate(self._dataset.shard(number).shard or "")
            try:
                sample = self._dataset.sample(position, media=False)
                drop = self._refused(position, sample)
                parts = tuple(_placed(part, shard) for part in sample.parts)
                yield Record(row=position, sample=replace(sample, parts=parts if drop is None else ()), drop=drop)
            except DataError as error:
                empty = Sample(key=f"{position:09d}", parts=(), origin=Origin(uri=f"unit {number}", row=position))
                drop = Drop(reason=error.reason, detail=error.detail, state="failed_permanent")
                yield Record(row=position, sample=empty, drop=drop)

    def _refused(self, position: int, sample: Sample) -> Drop | None:
        at = int(np.searchsorted(self._removed, position))
        if at < len(self._removed) and self._removed[at] == position:
            return Drop(reason="forgotten", detail=self._why.get(sample.key, ""))
        if any(media.place is None for media in sample.media):
            detail = "only what views made of its media was kept (materialize: keep_original: false)"
            return Drop(reason="no_bytes", detail=detail, state="failed_permanent")
        return None


def _placed(part: Media | Text, shard: str) -> Media | Text:
    """The part, a medium with the file that its bytes are in, and without what views made of it."""
    if isinstance(part, Text) or part.place is None:
        return part
    return replace(part, place=replace(part.place, shard=shard), made=())
