"""Token counts of texts, made once for a tokenizer and template: a file per shard, made when it is first asked for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmdata.checksum import crc32c
from mmdata.errors import DataError
from mmdata.shards.dataset import Dataset
from mmdata.shards.retry import patiently
from mmdata.shards.storage import user_cache, write_atomic
from mmdata.stream.tokenizer import tokenizer_digest
from mmdata.templates import MEDIUM, Encoded, Template, Tokenizer, encode
from mmdata.templates import digest as template_digest
from mmdata.types import Media, Sample

log = logging.getLogger(__name__)

VERSION = 1
"""Grows when the code makes other tokens of the same texts, or the files change."""
CHUNK = 2000
"""Samples whose texts are in memory at once."""
KEPT_SHARDS = 4096
"""Shards whose counts stay mapped: address space, and memory that the system may take back."""
PATIENCE = 5.0
"""Seconds of work before, and between, lines that tell of it."""
SCHEMA = pa.schema(
    [
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("targets", pa.int32(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("order", pa.list_(pa.int16())),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Texts:
    """What the texts of N samples become."""

    tokens: npt.NDArray[np.int32]
    """int32 [N]: all ids of a sample but those in the places of media; 0 for samples that cannot be encoded, and 1 for
    those that are damaged: what a reader puts in their place has one."""
    targets: npt.NDArray[np.int32]
    """int32 [N]: ids that are trained."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why those samples (0 <= i < N) cannot be encoded."""
    orders: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Of samples whose media the template puts into another order: the numbers of the media, as they come."""
    damaged: dict[int, str] = field(default_factory=dict)
    """Why the texts of those samples cannot be read. They stay in the plan, and readers mask them in their place."""

    def __len__(self) -> int:
        return len(self.tokens)

    def slice(self, at: npt.NDArray[np.int64]) -> Texts:
        """Those of some of the samples."""
        places = at.tolist() if self.reasons or self.orders or self.damaged else []
        return Texts(
            tokens=self.tokens[at],
            targets=self.targets[at],
            reasons={i: self.reasons[old] for i, old in enumerate(places) if old in self.reasons},
            orders={i: self.orders[old] for i, old in enumerate(places) if old in self.orders},
            damaged={i: self.damaged[old] for i, old in enumerate(places) if old in self.damaged},
        )


def count(encoded: Sequence[Encoded | DataError], samples: Sequence[Sample]) -> Texts:
    """The counts of encoded samples; `encoded[i]` is what became of `samples[i]`."""
    tokens = np.zeros(len(encoded), np.int32)
    targets = np.zeros(len(encoded), np.int32)
    reasons: dict[int, str] = {}
    orders: dict[int, tuple[int, ...]] = {}
    for i, (found, sample) in enumerate(zip(encoded, samples, strict=True)):
        if isinstance(found, DataError):
            reasons[i] = found.reason
            continue
        tokens[i] = len(found.ids) - found.ids.count(MEDIUM)
        targets[i] = sum(span.stop - max(span.start, 1) for span in found.spans if span.weight > 0)
        order = order_of(found, sample.media)
        if order != tuple(range(len(order))):
            orders[i] = order
    return Texts(tokens=tokens, targets=targets, reasons=reasons, orders=orders)


def order_of(encoded: Encoded, media: Sequence[Media]) -> tuple[int, ...]:
    """The numbers of a sample's media in the order of their places."""
    numbers = {id(medium): number for number, medium in enumerate(media)}
    return tuple(numbers[id(medium)] for medium in encoded.media)


class Lengths:
    """Counts of a dataset's texts by position, kept in files.

    They lie in `DATASET/lengths/<digest>/NNNNNN.arrow`, or where that cannot be written in a folder of the cache that
    the dataset's root digest names; `folder` names another place. A file belongs to one shard's bytes, tokenizer and
    template and carries its own checksum: what is stale or damaged is made again. Processes share files without
    locks: each is written whole under its final name, and whoever is last wins with the same bytes. Media lengths are
    never kept: they follow from facts and views. Nor are counts of a shard with damaged texts, which may be repaired:
    each process counts it again. Safe to use from several threads.
    """

    def __init__(
        self, dataset: Dataset, tokenizer: Tokenizer, template: Template, folder: str | os.PathLike[str] | None = None
    ) -> None:
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.template = template
        named = [VERSION, tokenizer_digest(tokenizer), template_digest(template, tokenizer)]
        self.digest = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
        self.folders = _folders(dataset, self.digest, folder)
        self._open: OrderedDict[int, Texts] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, positions: npt.NDArray[np.int64]) -> Texts:
        """The counts of the samples at `positions`; shards without a file get one first."""
        if not len(positions):
            return Texts(tokens=np.zeros(0, np.int32), targets=np.zeros(0, np.int32))
        firsts = self.dataset.shard_firsts
        shards = np.searchsorted(firsts, positions, side="right") - 1
        needed, which = np.unique(shards, return_inverse=True)
        parts = self._shards(needed.tolist())
        order = np.argsort(which, kind="stable")
        edges = np.searchsorted(which[order], np.arange(len(needed) + 1))
        tokens, targets = np.empty(len(positions), np.int32), np.empty(len(positions), np.int32)
        reasons: dict[int, str] = {}
        orders: dict[int, tuple[int, ...]] = {}
        damaged: dict[int, str] = {}
        for number, (shard, part) in enumerate(zip(needed.tolist(), parts, strict=True)):
            here = order[edges[number] : edges[number + 1]]
            rows = positions[here] - firsts[shard]
            tokens[here], targets[here] = part.tokens[rows], part.targets[rows]
            if part.reasons or part.orders or part.damaged:
                some = part.slice(rows)
                reasons |= {int(here[i]): reason for i, reason in some.reasons.items()}
                orders |= {int(here[i]): found for i, found in some.orders.items()}
                damaged |= {int(here[i]): reason for i, reason in some.damaged.items()}
        return Texts(tokens=tokens, targets=targets, reasons=reasons, orders=orders, damaged=damaged)

    def make(self, shards: Sequence[int] | None = None, *, tell: Callable[[str], None] | None = None) -> int:
        """Make the files of `shards` (default: all) that are missing, stale or damaged; the number of them."""
        missing = [shard for shard in shards or range(len(self.dataset.shard_firsts) - 1) if self._read(shard) is None]
        self._make(missing, tell or log.info)
        return len(missing)

    def _shards(self, shards: list[int]) -> list[Texts]:
        """Of each shard; those not known yet are read, or made all in one go."""
        with self._lock:
            missing: list[int] = []
            for shard in shards:
                if shard in self._open:
                    self._open.move_to_end(shard)
                elif (found := self._read(shard)) is not None:
                    self._open[shard] = found
                else:
                    missing.append(shard)
            self._open |= self._make(missing, log.info)
            result = [self._open[shard] for shard in shards]
            while len(self._open) > max(KEPT_SHARDS, len(shards)):
                self._open.popitem(last=False)
        return result

    def _make(self, shards: list[int], tell: Callable[[str], None]) -> dict[int, Texts]:
        made: dict[int, Texts] = {}
        began = told = time.monotonic()
        # Processes that need the same shards begin at different ones, and so do a part each.
        first = os.getpid() * 7919 % max(1, len(shards))
        for number, shard in enumerate(shards[first:] + shards[:first]):
            found = self._read(shard) if number else None
            made[shard] = self._count(shard) if found is None else found
            now = time.monotonic()
            if now - told > PATIENCE:
                rate = (number + 1) / (now - began)
                tell(
                    f"{self.dataset.path}: texts of {number + 1:,} of {len(shards):,} shards counted, "
                    f"{(len(shards) - number - 1) / rate:.0f} s left"
                )
                told = now
        return made

    def _count(self, shard: int) -> Texts:
        first, stop = self.dataset.shard_firsts[shard : shard + 2].tolist()
        parts, errors = list[Texts](), list[DataError]()
        for start in range(first, stop, CHUNK):
            samples, damaged = list[Sample](), dict[int, str]()
            for number, position in enumerate(range(start, min(start + CHUNK, stop))):
                try:
                    samples.append(self._sample(position))
                except DataError as error:
                    damaged[number] = error.reason
                    errors.append(error)
            texts = count(encode(samples, self.tokenizer, self.template), samples)
            parts.append(_among(texts, damaged) if damaged else texts)
        texts = _joined(parts)
        if errors:
            log.warning(
                "%s: shard %d: %d texts cannot be read, their samples are masked; the first: %s",
                *(self.dataset.path, self.dataset.shard(shard).unit, len(errors), errors[0]),
            )
            return texts
        data = to_bytes(texts, self._belongs(shard))
        for folder in self.folders:
            with contextlib.suppress(OSError):  # a folder that cannot be written: the next one, or none this time
                folder.mkdir(parents=True, exist_ok=True)
                write_atomic(folder / self._name(shard), data)
                break
        else:
            log.warning("%s: token counts cannot be kept in %s", self.dataset.path, " or ".join(map(str, self.folders)))
        return texts

    def _sample(self, position: int) -> Sample:
        return patiently(
            lambda: self.dataset.sample(position, media=False), f"{self.dataset.path}: position {position}"
        )

    def _read(self, shard: int) -> Texts | None:
        first, stop = self.dataset.shard_firsts[shard : shard + 2].tolist()
        for folder in self.folders:
            with contextlib.suppress(DataError):
                return read(folder / self._name(shard), self._belongs(shard), stop - first)
        return None

    def _name(self, shard: int) -> str:
        return f"{self.dataset.shard(shard).unit:06d}.arrow"

    def _belongs(self, shard: int) -> str:
        entry = self.dataset.shard(shard)
        return f"{entry.shard_sha256} {entry.index_sha256} {self.digest}"


def to_bytes(texts: Texts, belongs: str) -> bytes:
    """The Arrow IPC file of a shard's counts: the same counts give the same bytes."""
    reasons = pa.array(
        [texts.reasons.get(i) for i in range(len(texts))] if texts.reasons else [None] * len(texts), pa.string()
    )
    orders = pa.array(
        [texts.orders.get(i) for i in range(len(texts))] if texts.orders else [None] * len(texts), pa.list_(pa.int16())
    )
    arrays = [pa.array(texts.tokens), pa.array(texts.targets), reasons, orders]
    schema = SCHEMA.with_metadata({"belongs": belongs, "crc32c": str(_checksum(texts))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return bytes(sink.getvalue())


def read(path: Path, belongs: str, rows: int) -> Texts:
    """The counts in a file, memory-mapped. Raises DataError `lengths_missing`, `lengths_damaged`, or `lengths_stale`
    where they are not those of `belongs`."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        metadata = table.schema.metadata or {}
        if not table.schema.equals(SCHEMA) or metadata.get(b"belongs", b"").decode() != belongs:
            raise DataError("lengths_stale", f"{path}: token counts of another shard, tokenizer or template")
        table.validate(full=True)
        table = table.combine_chunks()
        reasons, orders = table["reason"], table["order"]
        texts = Texts(
            tokens=table["tokens"].to_numpy(),
            targets=table["targets"].to_numpy(),
            reasons=_present(reasons),
            orders={i: tuple(order) for i, order in _present(orders).items()},
        )
        if len(texts) != rows or int(metadata[b"crc32c"]) != _checksum(texts):
            raise DataError("lengths_damaged", f"{path}: the checksum does not match; it is made again")
    except FileNotFoundError as error:
        raise DataError("lengths_missing", f"{path}: no such file") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError("lengths_damaged", f"{path}: {error}") from error
    return texts


def _present(column: pa.ChunkedArray) -> dict[int, Any]:
    """Values that are there, by row."""
    if column.null_count == len(column):
        return {}
    return {i: value for i, value in enumerate(column.to_pylist()) if value is not None}


def _checksum(texts: Texts) -> int:
    rest = json.dumps([sorted(texts.reasons.items()), sorted(texts.orders.items())]).encode()
    crc = crc32c(np.ascontiguousarray(texts.tokens).tobytes())
    crc = crc32c(np.ascontiguousarray(texts.targets).tobytes(), crc)
    return int(crc32c(rest, crc))


def _among(texts: Texts, damaged: dict[int, str]) -> Texts:
    """`texts` with damaged samples between them: their numbers are those in the result."""
    n = len(texts) + len(damaged)
    places = np.setdiff1d(np.arange(n), list(damaged))
    tokens, targets = np.ones(n, np.int32), np.zeros(n, np.int32)
    tokens[places], targets[places] = texts.tokens, texts.targets
    return Texts(
        tokens=tokens,
        targets=targets,
        reasons={int(places[i]): reason for i, reason in texts.reasons.items()},
        orders={int(places[i]): order for i, order in texts.orders.items()},
        damaged=damaged,
    )


def _joined(parts: Sequence[Texts]) -> Texts:
    reasons: dict[int, str] = {}
    orders: dict[int, tuple[int, ...]] = {}
    damaged: dict[int, str] = {}
    first = 0
    for part in parts:
        reasons |= {first + i: reason for i, reason in part.reasons.items()}
        orders |= {first + i: order for i, order in part.orders.items()}
        damaged |= {first + i: reason for i, reason in part.damaged.items()}
        first += len(part)
    return Texts(
        tokens=np.concatenate([part.tokens for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        reasons=reasons,
        orders=orders,
        damaged=damaged,
    )


def _folders(dataset: Dataset, digest: str, folder: str | os.PathLike[str] | None) -> list[Path]:
    """Where counts are looked for and kept, the first that can be written."""
    root = dataset.manifest.root_digest[:16]
    if folder is not None:
        return [Path(folder) / root / digest]
    cache = user_cache("lengths") / root / digest
    return [dataset.path / "lengths" / digest, cache]
