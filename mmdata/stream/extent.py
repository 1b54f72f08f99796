"""Datasets that grow while a run goes on: the running epoch keeps what it began with, the next one has it all."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

from pydantic import Field

from mmdata.families import Family
from mmdata.shards.dataset import Dataset
from mmdata.spec import Model
from mmdata.stream.block import Block
from mmdata.stream.control import ControlLog
from mmdata.stream.plan import Planner
from mmdata.stream.position import Position
from mmdata.stream.sources import Held, held, mixer
from mmdata.stream.spec import StreamSpec
from mmdata.templates import Template

HEX = 12
"""Digits of a root digest that a state keeps."""


class Extent(Model):
    """What a stream's datasets hold from an epoch on."""

    epoch: int = Field(ge=0)
    roots: str
    """12 hex digits of the root digest of each dataset, one after the other."""
    shards: list[int]
    """How many shards, those without samples not counted, each dataset has."""


def extent(datasets: Sequence[Dataset], epoch: int = 0) -> Extent:
    """The datasets as they are, from `epoch` on."""
    return Extent(
        epoch=epoch,
        roots="".join(dataset.manifest.root_digest[:HEX] for dataset in datasets),
        shards=[len(dataset.shard_rows) for dataset in datasets],
    )


def carried_on(saved: Sequence[Extent], datasets: Sequence[Dataset], at: Position) -> tuple[list[Extent], list[str]]:
    """The extents of a run that was saved with others and stands at a position, and how the data differ otherwise than
    by shards added at the end. A larger dataset counts from the next epoch on, or from this one if it is yet to begin.
    """
    now = extent(datasets, at.epoch if at.block == at.pack == 0 else at.epoch + 1)
    differing = [problem for earlier in saved for problem in _differing(earlier, datasets)]
    if differing:
        return list(saved), list(dict.fromkeys(differing))
    running = [earlier for earlier in saved if earlier.epoch <= at.epoch][-1:]
    pending = [earlier for earlier in saved if earlier.epoch > at.epoch]
    last = (running + pending)[-1]
    if (last.roots, last.shards) == (now.roots, now.shards):
        return running + pending, []
    return [*(earlier for earlier in running if earlier.epoch < now.epoch), now], []


def _differing(saved: Extent, datasets: Sequence[Dataset]) -> Iterator[str]:
    if len(saved.shards) != len(datasets):
        yield f"datasets: {len(saved.shards)} -> {len(datasets)}"
        return
    for number, (dataset, shards) in enumerate(zip(datasets, saved.shards, strict=True)):
        before = saved.roots[number * HEX : (number + 1) * HEX]
        held = len(dataset.shard_rows)
        if shards > held:
            yield f"dataset {dataset.path}: {shards} shards -> {held}"
        elif (now := _root(dataset, shards)) != before:
            which = "" if shards == held else f" of its first {shards} shards"
            yield f"dataset {dataset.path}: root digest{which} {before} -> {now}"


def _root(dataset: Dataset, shards: int) -> str:
    """Of its first shards."""
    if shards == len(dataset.shard_rows):
        return dataset.manifest.root_digest[:HEX]
    return dataset.manifest.prefix_digest(shards)[:HEX]


def planner(
    datasets: Sequence[Dataset],
    spec: StreamSpec,
    family: Family | None,
    templates: Sequence[Template],
    *,
    extents: Sequence[Extent],
    control: ControlLog | None,
) -> Planner:
    """The planner of a stream. A weighted mixture has no epochs of its own: it keeps what it began with to its end."""
    first = _held(datasets, spec, extents[0].shards)
    if spec.weighted or len(extents) == 1:
        return Planner(datasets, spec, family, templates, mixer(spec, first, control), first)
    return ExtendedPlanner(datasets, spec, family, templates, extents=extents)


class ExtendedPlanner(Planner):
    """A Planner that has one for each extent: epochs are planned by theirs, everything else is that of the last."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        spec: StreamSpec,
        family: Family | None,
        templates: Sequence[Template],
        *,
        extents: Sequence[Extent],
    ) -> None:
        whole = [len(dataset.shard_rows) for dataset in datasets]
        super().__init__(datasets, spec, family, templates, held=_held(datasets, spec, whole))
        self._begins = [extent.epoch for extent in extents]
        self._planners = [
            Planner(datasets, spec, family, templates, held=_held(datasets, spec, extent.shards)) for extent in extents
        ]

    def block(self, at: Position) -> Block:
        return self._of(at.epoch).block(at)

    def following(self, at: Position) -> Position:
        return self._of(at.epoch).following(at)

    def _of(self, epoch: int) -> Planner:
        return self._planners[max(0, bisect.bisect_right(self._begins, epoch) - 1)]


def _held(datasets: Sequence[Dataset], spec: StreamSpec, shards: Sequence[int]) -> list[Held]:
    return [held(d, n, each.limit) for d, n, each in zip(datasets, shards, spec.sources, strict=True)]
