"""A dataset of our own as a source, to filter, shard or merge it again, whole samples or the pieces they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from mmdata.errors import DataError, SpecError
from mmdata.registry import register
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.sources import _pieces
from mmdata.spec import InputPath, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, MediaKind, Origin, Sample, Text


@register("source", "dataset")
class OwnDataset(SourceSpec):
    """A finished dataset, built or indexed by mmdata. Samples keep their key, facts, meta and origin; what was removed
    from it (`mmdata.forget`) ends as `filtered: forgotten`. To merge several, put them into a `mixture`.

    With `each` every video, audio or image becomes a record of its own: the clips of `scene_clips`, the segments of
    `voice_activity`, the pictures of `keyframe_images`. Its key is `KEY-000`, `KEY-001` and so on. Columns say which
    sample it is a piece of (`parent`, that sample's key: group by it, with `split` and `limit_per`, so that pieces of
    one source stay together), which of its pieces (`piece`, from 0), and from where to where in seconds (`piece_start`,
    `piece_stop`), where that is known. Texts are those that belong to the piece, if `subtitle_align` put them there,
    else all of the sample; its other media are left out, and so are the lists of all pieces' times. A sample
    without such a part ends as `filtered: no_pieces`.
    """

    kind: Literal["dataset"] = "dataset"
    path: InputPath = runtime()
    """Its folder, or any URL that fsspec knows."""
    each: MediaKind | None = None
    """Make a record of each `video`, `audio` or `image`. Default: of each sample."""

    def open(self) -> Source:
        try:
            return _Samples(open_dataset(self.path), self.each)
        except FileNotFoundError as error:
            raise SpecError(f"source.path: {error}") from error


class _Samples:
    def __init__(self, dataset: Dataset, each: MediaKind | None) -> None:
        self._dataset = dataset
        self._each = each
        self._removed = dataset.masked()
        self._why = {stone.key: stone.reason for removal in dataset.removals() for stone in removal.stones}
        self._ends: np.ndarray | None = None

    def inputs(self) -> list[dict[str, Any]]:
        manifest, removals = self._dataset.manifest, self._dataset.removals()
        removed = {"removals": removals[-1].digest} if removals else {}
        return [{"name": ".", "samples": manifest.samples, "root_digest": manifest.root_digest, **removed}]

    def continues(self, before: Sequence[Mapping[str, Any]]) -> None:
        told, dataset = before[0], self._dataset
        shards = int(np.searchsorted(dataset.shard_firsts, told["samples"]))
        if dataset.manifest.prefix_digest(shards) != told["root_digest"]:
            raise SpecError("source: the dataset's first samples are not those that are built; build to another output")
        digests = ["", *(removal.digest for removal in dataset.removals())]
        known = digests.index(told.get("removals", "")) if told.get("removals", "") in digests else 0
        if (dataset.masked() < told["samples"]).sum() != (dataset.masked(known) < told["samples"]).sum():
            raise SpecError(
                "source: samples that are built have been removed from the dataset; remove them here as well and build "
                "what is new to another output, or build all of it there"
            )

    def count(self) -> int | None:
        return len(self._dataset) if self._each is None else int(self._shard_ends()[-1])

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for row, position, piece in self._rows(start):
            if stop is not None and row >= stop:
                return
            try:
                yield self._record(row, position, piece)
            except DataError as error:
                number = self._dataset.ref(position).shard
                empty = Sample(key=f"{row:09d}", parts=(), origin=Origin(uri=f"unit {number}", row=row))
                drop = Drop(reason=error.reason, detail=error.detail, state="failed_permanent")
                yield Record(row=row, sample=empty, drop=drop)

    def _record(self, row: int, position: int, piece: int) -> Record:
        sample = self._dataset.sample(position, media=False)
        drop = self._refused(position, sample)
        if self._each is not None:
            taken = _pieces.piece(sample, self._each, piece)
            drop = drop or (None if taken.media else Drop(reason="no_pieces", detail=f"it has no {self._each}"))
            sample = taken
        shard = self._dataset.folder.locate(self._dataset.entry(position).shard or "")
        parts = tuple(_placed(part, shard) for part in sample.parts) if drop is None else ()
        return Record(row=row, sample=replace(sample, parts=parts), drop=drop)

    def _rows(self, start: int) -> Iterator[tuple[int, int, int]]:
        """Row, position and number of the piece of each record from a row on. A sample without pieces has one."""
        if self._each is None:
            yield from ((row, row, 0) for row in range(start, len(self._dataset)))
            return
        ends, firsts = self._shard_ends(), self._dataset.shard_firsts
        for number in range(int(np.searchsorted(ends, start, side="right")), len(ends)):
            counts = self._counts(number)
            row = int(ends[number] - counts.sum())
            for at, count in enumerate(counts.tolist()):
                for piece in range(max(0, start - row), count):
                    yield row + piece, int(firsts[number]) + at, piece
                row += count

    def _counts(self, number: int) -> np.ndarray:
        assert self._each is not None
        counts: np.ndarray = np.maximum(self._dataset.media_counts(number, self._each), 1)
        return counts

    def _shard_ends(self) -> np.ndarray:
        """The row behind the last of each shard: int64 [S]. No media are read, but each index."""
        if self._ends is None:
            shards = len(self._dataset.shard_firsts) - 1
            self._ends = np.cumsum([int(self._counts(number).sum()) for number in range(shards)], dtype=np.int64)
        return self._ends if len(self._ends) else np.zeros(1, np.int64)

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
