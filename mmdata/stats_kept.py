"""What was kept, counted from indexes: facts of media by kind, lengths of text, tasks, and which samples to show."""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmdata.checksum import crc32c
from mmdata.errors import DataError
from mmdata.rng import generator
from mmdata.shards.access import Source
from mmdata.shards.folder import Folder
from mmdata.shards.index import FOREIGN, Index
from mmdata.shards.manifest import Manifest
from mmdata.shards.table import ShardEntry
from mmdata.stats_tokens import MediaTokens
from mmdata.tally import Tally, by_count, lengths, octaves, sample_keys

TEXT_SAMPLE = 10_000
"""Samples whose text is read to count characters and words; with no more than that, all are read."""
SPEAKERS = ("system", "user", "assistant", "tool")
FORMS = {"image": 24, "conversation": 6, "document": 4, "video": 6, "audio": 6, "text": 6}
"""Forms of samples, and how many of each are shown."""

TASKS = 100
"""Tasks that are listed."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def origin_source(origin: pa.Array | pa.ChunkedArray, names: list[str]) -> list[str | None]:
    """The source of a mixture that each origin `NAME/...` belongs to."""
    known = set(names)
    found = pc.dictionary_encode(origin)
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    heads = [head if (head := name.partition("/")[0]) in known else None for name in found.dictionary.to_pylist()]
    return [heads[at] for at in found.indices.to_pylist()]


class Kept:
    """Tallies over the indexes of kept samples."""

    def __init__(self, manifest: Manifest, seed: int, sources: list[str]) -> None:
        self._seed, self._sources = seed, sources
        self._positions = np.asarray(sample_keys(manifest.samples, TEXT_SAMPLE, seed), dtype=np.int64)
        pixels, seconds = "px, square root of the area", octaves(1 / 8, 8192, 2)
        self.tallies = {
            "resolution": Tally(pixels, octaves(16, 16384, 4)),
            "image_resolution": Tally(pixels, octaves(16, 16384, 4)),
            "video_resolution": Tally(pixels, octaves(16, 16384, 4)),
            "aspect": Tally("width / height", octaves(1 / 16, 16, 4, centred=True), whole=False),
            "media_bytes": Tally("bytes", octaves(64, 2**27, 2)),
            "media_seconds": Tally("s", seconds, whole=False),
            "video_seconds": Tally("s", seconds, whole=False),
            "audio_seconds": Tally("s", seconds, whole=False),
            "video_fps": Tally("frames / s", octaves(1, 256, 4), whole=False),
            "sample_rate": Tally("Hz", octaves(4000, 256_000, 2, centred=True)),
            "media_per_sample": Tally("media", lengths(512)),
            "turns": Tally("turns", lengths(512)),
            "text_bytes": Tally("bytes", lengths(65_536)),
            "text_characters_sampled": Tally("characters", lengths(65_536)),
            "text_words_sampled": Tally("words", lengths(16_384)),
            "speech_rate_sampled": Tally("words / s", octaves(1 / 16, 64, 4), whole=False),
        }
        self.tokens = MediaTokens(manifest.samples, seed)
        self.kinds: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        self.verified: Counter[str] = Counter()
        self.rates: Counter[str] = Counter()
        self.channels: Counter[str] = Counter()
        self.stored: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.by_source: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.tasks: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.forms: Counter[str] = Counter()
        self._shown: dict[str, list[tuple[float, int]]] = {form: [] for form in FORMS}

    def add(self, folder: Path, entry: ShardEntry) -> None:
        """Count one unit that has samples. Raises DataError where its index or a text that is read has changed."""
        assert entry.index is not None, entry
        assert entry.shard is not None, entry
        index = Index(folder / entry.index, crc32c=entry.index_crc32c)
        if len(index) != entry.rows:
            raise DataError("index_rows", f"{index.path}: {len(index)} rows, the manifest has {entry.rows}")
        column = index.column("parts")
        parts, owner = column.flatten(), pc.list_parent_indices(column).to_numpy()

        def of(name: str, mask: Flags | None = None) -> pa.Array:
            values = parts.field(name)
            return values if mask is None else values.filter(pa.array(mask))

        def rows_of(mask: Flags, weights: Floats | None = None) -> Any:
            """How many parts of `mask` each sample has, or the sum of their weights."""
            return np.bincount(
                owner[mask], weights=None if weights is None else np.nan_to_num(weights[mask]), minlength=entry.rows
            )

        kind = np.asarray(of("kind").to_pylist(), dtype=object)
        text, made, image, video, audio = (kind == name for name in ("text", "stored", "image", "video", "audio"))
        media, seen = image | video | audio, image | video
        height, width, lasting = (_floats(of(name)) for name in ("height", "width", "seconds"))
        side = np.sqrt(height * width)
        self.tallies["resolution"].add(side[seen])
        self.tallies["image_resolution"].add(side[image])
        self.tallies["video_resolution"].add(side[video])
        self.tallies["aspect"].add(width[seen] / np.where(height[seen] > 0, height[seen], np.nan))
        own = media & (np.asarray(of("name").to_pylist(), dtype=object) != "")  # bytes that were kept
        size = _floats(of("size"))
        self.tallies["media_bytes"].add(size[own])
        self.tallies["media_seconds"].add(lasting[media])
        self.tallies["video_seconds"].add(lasting[video])
        self.tallies["audio_seconds"].add(lasting[audio])
        self.tallies["video_fps"].add(_floats(of("fps", video)))
        self.tallies["sample_rate"].add(_floats(of("sample_rate", audio | video)))
        for counter, name in ((self.formats, "format"), (self.modes, "mode"), (self.verified, "verified")):
            which = image if counter is self.modes else media
            counter.update("unknown" if value is None else value for value in of(name, which).to_pylist())
        for counter, name in ((self.rates, "sample_rate"), (self.channels, "channels")):
            counter.update(str(value) for value in of(name, audio | video).drop_null().to_pylist())
        self.kinds.update(kind[~(kind == "meta")].tolist())
        for name, form, stored in zip(*(of(n, made).to_pylist() for n in ("name", "format", "size")), strict=True):
            self.stored[f"{form} {name.removesuffix('.arrow').rpartition('.')[2]}"].update(parts=1, bytes=stored)
        sizes = size + np.nan_to_num(_floats(pc.binary_length(of("inline"))))
        self.tallies["text_bytes"].add(rows_of(text, sizes))
        pieces, turns = rows_of(text), rows_of(text & _is_in(of("role"), SPEAKERS))
        self.tallies["media_per_sample"].add(rows_of(media)[rows_of(media) > 0])
        self.tallies["turns"].add(turns[turns > 0])
        several = (rows_of(media) > 1) & (pieces > 1)
        document = (rows_of(text & _is_in(of("role"), ("document",))) > 0) | several
        has = rows_of(image), rows_of(video), rows_of(audio), pieces
        self._choose(entry, np.select(
            [turns > 0, (rows_of(media) > 0) & document, has[1] > 0, has[2] > 0, has[0] > 0],
            ["conversation", "document", "video", "audio", "image"], "text",
        ))  # fmt: skip
        if self._sources:
            told = origin_source(index.column("origin"), self._sources)
            columns = (*has, rows_of(media, size), rows_of(media, lasting))
            for name, *counts in zip(told, *(column.tolist() for column in columns), strict=True):
                if name is not None:
                    names = ("images", "videos", "audio", "texts", "bytes", "seconds")
                    self.by_source[name].update(samples=1, **dict(zip(names, counts, strict=True)))
        self.tokens.add(index, entry)
        self._read_texts(folder, entry, parts, owner, kind, rows_of(audio, lasting))

    def _choose(self, entry: ShardEntry, forms: npt.NDArray[Any]) -> None:
        """Of each form keep the samples with the least keyed draw."""
        draw = generator(self._seed, "kept", entry.unit).random(entry.rows)
        for form, most in FORMS.items():
            rows = np.flatnonzero(forms == form)
            self.forms[form] += len(rows)
            rows = rows[np.argsort(draw[rows])[:most]]
            found = [(float(draw[row]), entry.first + int(row)) for row in rows]
            self._shown[form] = heapq.nsmallest(most, [*self._shown[form], *found])

    def _read_texts(self, folder: Path, entry: ShardEntry, parts: Any, owner: Any, kind: Any, spoken: Floats) -> None:
        """Characters and words of the text of each sampled sample, all its text parts together, and its task."""
        first, last = np.searchsorted(self._positions, (entry.first, entry.first + entry.rows))
        wanted = self._positions[first:last] - entry.first
        if not len(wanted):
            return
        counts = {int(row): [0, 0] for row in wanted}
        tasks: dict[int, str] = {}
        chosen = np.flatnonzero(((kind == "text") | (kind == "meta")) & np.isin(owner, wanted))
        places = zip(
            *(parts.field(n).take(pa.array(chosen)).to_pylist() for n in ("offset", "size", "crc32c", "inline")),
            *(parts.field(n).take(pa.array(chosen)).to_pylist() for n in ("kind", "format")),
            strict=True,
        )
        shard: Source | None = None
        for row, (offset, size, checksum, data, what, form) in zip(owner[chosen].tolist(), places, strict=True):
            if data is None:
                shard = shard or Folder(folder).source(entry.shard or "")
                data = shard.read(offset, size)
            if checksum is not None and crc32c(data) != checksum:
                raise DataError("part_crc32c", f"{entry.shard}: {what} at byte {offset} has changed since the build")
            if what == "meta":
                if (task := _task(data, foreign=form == FOREIGN)) is not None:
                    tasks[row] = task
                continue
            string = data.decode(errors="replace")
            counts[row][0] += len(string)
            counts[row][1] += len(string.split())
        if shard is not None:
            shard.close()
        table = np.asarray(list(counts.values()), dtype=np.float64)
        self.tallies["text_characters_sampled"].add(table[:, 0])
        self.tallies["text_words_sampled"].add(table[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = table[:, 1] / spoken[wanted]
        self.tallies["speech_rate_sampled"].add(rate[(spoken[wanted] > 0) & (table[:, 1] > 0)])
        for row, task in tasks.items():
            self.tasks[task].update(samples=1, characters=counts[row][0], words=counts[row][1])

    def to_json(self) -> dict[str, Any]:
        return {
            "histograms": {name: tally.to_json() for name, tally in self.tallies.items()},
            "media_tokens": self.tokens.to_json(),
            "text_sampled": len(self._positions),
            "parts": dict(by_count(self.kinds)),
            "formats": dict(by_count(self.formats)),
            "modes": dict(by_count(self.modes)),
            "sample_rates": dict(by_count(self.rates)),
            "channels": dict(by_count(self.channels)),
            "verified": dict(by_count(self.verified)),
            "stored": {name: dict(found) for name, found in sorted(self.stored.items())},
            "tasks_sampled": {name: dict(found) for name, found in self._most_tasks()},
            "forms": {
                form: {"samples": self.forms[form], "shown": sorted(position for _, position in self._shown[form])}
                for form in FORMS
                if self.forms[form]
            },
        }

    def _most_tasks(self) -> list[tuple[str, Counter[str]]]:
        return sorted(self.tasks.items(), key=lambda item: (-item[1]["samples"], item[0]))[:TASKS]


def _task(data: bytes, *, foreign: bool) -> str | None:
    """The task that a sample's JSON names."""
    if b'"task"' not in data:
        return None
    try:
        value = json.loads(data)
        task = (value if foreign else value.get("meta") or {}).get("task")
    except (ValueError, AttributeError):  # the JSON of foreign shards is anything
        return None
    return task[:200] if isinstance(task, str) else None


def _is_in(values: pa.Array, names: tuple[str, ...]) -> Flags:
    found: Flags = pc.is_in(values, pa.array(names, values.type)).to_numpy(zero_copy_only=False)
    return found


def _floats(values: pa.Array) -> Floats:
    """As float64, null as NaN."""
    array: Floats = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return array
