"""What the reference says of every pair of a run's data, asked once and kept under a digest of all that decides it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch

from mmdata.errors import DataError, SpecError
from mmdata.shards.storage import user_cache, write_atomic
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.spec import StreamSpec
from mmdata.stream.tokenizer import tokenizer_digest
from mmdata.templates import digest as template_digest
from mmtrain import sharding
from mmtrain.adapters import off
from mmtrain.distributed import first, gather
from mmtrain.held_out import undisturbed
from mmtrain.precision import autocast

if TYPE_CHECKING:
    from mmtrain.job import Job
    from mmtrain.spec import TrainSpec

VERSION = 2
"""Grows when the same model would be asked otherwise."""
FOLDER = "reference"
DECIDING = {"max_length", "hold_out", "part", "decode", "max_pixels", "image_decoder"}
"""Of a stream's fields, those that change what samples are there, or what is seen of them."""
ORIGIN = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""Of a model's config, what says where it comes from and not what it does."""


class Reference:
    """Log-probabilities of both answers of each pair: float64 [samples, 2] for each dataset, not a number where nobody
    asked."""

    def __init__(self, tables: Sequence[np.ndarray]) -> None:
        self.tables = list(tables)

    def of(self, places: Sequence[tuple[int, int]], device: torch.device) -> torch.Tensor:
        """Of pairs at (dataset, position): float32 [pairs, 2]. Raises DataError for one that is not there."""
        found = np.array([self.tables[dataset][at] for dataset, at in places], np.float64).reshape(-1, 2)
        if np.isnan(found).any():
            dataset, at = places[int(np.isnan(found).any(1).argmax())]
            raise DataError(
                "no_reference", f"dataset {dataset} position {at}: the reference was not asked for this pair"
            )
        return torch.from_numpy(found).to(device, torch.float32)

    @property
    def pairs(self) -> int:
        """How many were asked for."""
        return sum(int((~np.isnan(table).any(1)).sum()) for table in self.tables)


def identity(spec: TrainSpec, model: Any, weights: str, stream: StreamingDataset, key: str) -> str:
    """16 hex digits of all that decides what the reference says: weights and what the model does with them, tokenizer,
    template, view, data, and what is left out of them. `weights` is the digest of those of the model as the run begins,
    `key` is where the spec tells of the stream. Raises SpecError for data that chance changes."""
    told, data = spec.preference, stream.spec
    assert told is not None
    assert stream.family is not None
    if data.augment is not None or data.views:
        wrong = "augment" if data.augment is not None else "views"
        raise SpecError(
            f"{key}.{wrong}: the reference is asked once, and this changes pictures while the run goes on; leave it out"
        )
    drawn = any(getattr(rule.view, "draws", False) for rule in stream.family.media.values())
    settings = {
        "version": VERSION,
        "seed": data.seed if drawn else None,  # what views leave to chance is the same in every epoch
        "model": weights,
        "config": _config(model.config.to_dict()),
        "rounded": [rule.model_dump(mode="json") for rule in spec.quantise_aware],
        "adapters": [each.model_dump(mode="json") for each in spec.adapters if told.reference == "start"],
        "reference": told.reference,
        "precision": [spec.precision, spec.params],
        "data": [dataset.manifest.root_digest for dataset in stream.datasets],
        "limits": [source.limit for source in data.sources],
        "templates": [template_digest(template, stream.family.tokenizer) for template in stream.templates],
        "tokenizer": tokenizer_digest(stream.family.tokenizer),
        "family": stream.family.describe(),
        "stream": data.model_dump(mode="json", include=DECIDING),
        "lossy": data.materialized == "lossy",
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _config(values: Any) -> Any:
    """A config without its origin, at any depth."""
    if isinstance(values, dict):
        return {str(name): _config(value) for name, value in values.items() if name not in ORIGIN}
    if isinstance(values, list | tuple):
        return [_config(each) for each in values]
    return values if isinstance(values, bool | int | float | str | None) else str(values)


def once(data: StreamSpec) -> StreamSpec:
    """All samples of a stream's part once, in their order, whatever they weigh."""
    left_out = {"schedule", "weigh_by", "datasets", "epochs", "shuffle"}
    told = data.model_dump(exclude_unset=True, exclude=left_out) | {"epochs": 1, "shuffle": "none", "pairs": True}
    if data.datasets:
        kept = {"path", "name", "limit", "template"}
        told["datasets"] = [each.model_dump(exclude_unset=True, include=kept) for each in data.datasets]
    return StreamSpec.model_validate(told)


def referenced(
    job: Job, digest: str, make_loader: Any, stream: StreamingDataset | None = None
) -> tuple[Reference, str]:
    """What the reference says of the pairs of a stream (the job's), from the file of that digest or else asked now by
    all ranks, which share the packs; and a line for the console. `make_loader(stream)` makes batches as the run's model
    takes them. The model is the reference: it has the weights that the run begins with."""
    told, stream = job.spec.preference, stream or job.loader.dataset
    assert told is not None
    folder = Path(told.cache) if told.cache is not None else user_cache(FOLDER)
    path = folder / f"{digest}.npz"
    tables = first(lambda: _read(path, [len(dataset) for dataset in stream.datasets]), job.world)
    if tables is not None:
        reference = Reference(tables)
        return reference, f"reference  {reference.pairs} pairs, as {path} has them"
    data = StreamingDataset(once(stream.spec), family=stream.family, global_batch=job.world.ranks, world=job.world)
    mine: list[tuple[int, int, float, float]] = []
    with undisturbed(job.model), off(job.model) if told.reference == "base" else nullcontext():
        for batches in make_loader(data).steps():
            for batch in batches:
                mine += _asked(job, batch)
    sharding.reshard(job.model)
    reference = Reference([np.full((len(dataset), 2), np.nan) for dataset in stream.datasets])
    for some in gather(mine, job.world):
        for dataset, at, chosen, rejected in some:
            reference.tables[dataset][at] = chosen, rejected
    if not reference.pairs and stream is job.loader.dataset:
        raise SpecError(f"preference: no sample of {', '.join(s.path for s in stream.spec.sources)} has two answers")
    first(lambda: _write(path, reference.tables), job.world)
    return reference, f"reference  {reference.pairs} pairs asked of the model as it begins, kept in {path}"


def _asked(job: Job, batch: Any) -> list[tuple[int, int, float, float]]:
    from mmtrain.preference.step import log_probabilities, pairs_of

    pairs = pairs_of(batch)
    with autocast(batch["input_ids"].device, job.spec.precision):
        logps, _ = log_probabilities(job.model, batch, pairs, job.strategy)
    values = logps.double().cpu()
    rows = pairs.chosen.tolist()
    return [(*place, float(values[at]), float(values[at + 1])) for place, at in zip(pairs.places, rows, strict=True)]


def _read(path: Path, sizes: Sequence[int]) -> list[np.ndarray] | None:
    """The tables of a file; None where there is none that is whole and fits."""
    try:
        with np.load(path, allow_pickle=False) as file:
            tables = [file[f"dataset{number}"] for number in range(len(sizes))]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return tables if [table.shape for table in tables] == [(size, 2) for size in sizes] else None


def _write(path: Path, tables: Sequence[np.ndarray]) -> None:
    buffer = io.BytesIO()
    named: Any = {f"dataset{number}": table for number, table in enumerate(tables)}
    np.savez(buffer, **named)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
