"""Deals to a batch: what a loader's threads do, in whichever process they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmdata.errors import DataError
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.deal import Deal
from mmdata.stream.stats import Spent
from mmdata.types import Item, Packed, Sample

_NOTHING = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Job:
    """Consecutive deals that make one batch. `known[i]` says of samples of deal i, by their number in its pack, that
    the run already masks them, and why."""

    deals: tuple[Deal, ...]
    known: tuple[Mapping[int, str], ...]


@dataclass(slots=True)
class Made:
    """A batch, or None where none of its samples could be read; what was read of each deal, without its arrays."""

    batch: Any
    values: tuple[Packed | DataError | None, ...]
    spent: Spent


@dataclass(frozen=True, slots=True)
class Making:
    """Reads the deals of a job, gives each value to `transform`, and all of them to `collate`: as a list where a batch
    `has_several`, else the value alone.

    A transform that raises DataError says so of its sample, which is then skipped and counted; whatever else is raised
    is a bug and stops the run.
    """

    dataset: StreamingDataset
    collate: Callable[[Any], Any] | None
    transform: Callable[[Any], Any] | None
    has_several: bool

    def __call__(self, job: Job) -> Made:
        spent = Spent()
        values: list[Packed | DataError | None] = []
        taken: list[Any] = []
        for dealt, reasons in zip(job.deals, job.known, strict=True):
            value: Any = self.dataset.read(dealt, known=_known(dealt, reasons), spent=spent)
            if self.transform is not None and not isinstance(value, DataError | None):
                try:
                    taken.append(self.transform(value))
                except DataError as error:
                    value = error
                spent.lap("decode")
            elif not isinstance(value, DataError | None):
                taken.append(value)
            values.append(_light(value))
        batch = None
        if taken:
            batch = taken if self.has_several else taken[0]
            if self.collate is not None:
                batch = self.collate(batch)
            spent.lap("collate")
        return Made(batch, tuple(values), spent)


def _known(dealt: Deal, reasons: Mapping[int, str]) -> Callable[[Item], str | None]:
    if not reasons or dealt.pack is None:
        return lambda item: None
    by_place = {(item.dataset, item.position, item.epoch): at for at, item in enumerate(dealt.pack.items)}
    return lambda item: reasons.get(by_place[item.dataset, item.position, item.epoch])


def _light(value: Sample | Packed | DataError | None) -> Packed | DataError | None:
    """What accounting needs to know: which samples are masked, or why there is none."""
    if isinstance(value, Packed):
        names = ("input_ids", "labels", "loss_weights", "position_ids", "cu_seqlens")
        empty: dict[str, Any] = dict.fromkeys(names, _NOTHING)
        return replace(value, **empty, slots=(), media={}, joins={}, token_arrays={}, token_classes=None)
    return value if isinstance(value, DataError) else None


def job(dataset: StreamingDataset, deals: Sequence[Deal]) -> Job:
    """The job of these deals, with what the run knows of their samples now."""
    return Job(tuple(deals), tuple(_reasons(dataset, dealt) for dealt in deals))


def _reasons(dataset: StreamingDataset, dealt: Deal) -> dict[int, str]:
    if dealt.pack is None:
        return {}
    found = {at: dataset.known(item) for at, item in enumerate(dealt.pack.items)}
    return {at: reason for at, reason in found.items() if reason is not None}
