"""Datasets that grow or lose samples while a run goes on: the running epoch keeps its order, the next ones follow."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence

from pydantic import Field

from mmdata.families import Family
from mmdata.shards.dataset import Dataset
from mmdata.spec import Model
from mmdata.stream.block import Block
from mmdata.stream.control import ControlLog
from mmdata.stream.forgotten import digest
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
    generations: list[int] = Field(default_factory=list)
    """How many removals (`mmdata.forget`) of each dataset are left out; empty where there are none at all."""
    removed: str = ""
    """12 hex digits of what these removed."""


def extent(datasets: Sequence[Dataset], epoch: int = 0, *, generations: Sequence[int] | None = None) -> Extent:
    """The datasets as they are, from `epoch` on; removals as of `generations`, by default all of them."""
    if generations is None:
        generations = [len(dataset.removals()) for dataset in datasets]
    return Extent(
        epoch=epoch,
        roots="".join(dataset.manifest.root_digest[:HEX] for dataset in datasets),
        shards=[len(dataset.shard_firsts) - 1 for dataset in datasets],
        generations=list(generations) if any(generations) else [],
        removed=digest(datasets, generations),
    )


def changed(saved: Sequence[Extent], now: Extent) -> bool:
    """Whether the datasets are others than they were last."""
    return saved[-1].model_copy(update={"epoch": now.epoch}) != now


def carried_on(saved: Sequence[Extent], now: Extent, at: Position) -> list[Extent]:
    """The extents of a run that was saved with others and stands at a position. What has `changed` since counts from
    the epoch of `now` on."""
    running = [earlier for earlier in saved if earlier.epoch <= at.epoch][-1:]
    pending = [earlier for earlier in saved if earlier.epoch > at.epoch]
    if not changed(running + pending, now):
        return running + pending
    return [*(earlier for earlier in running + pending if earlier.epoch < now.epoch), now]


def differing(saved: Sequence[Extent], datasets: Sequence[Dataset]) -> list[str]:
    """How datasets differ from those of a state otherwise than by shards and removals that were added."""
    return list(dict.fromkeys(problem for earlier in saved for problem in _differing(earlier, datasets)))


def _differing(saved: Extent, datasets: Sequence[Dataset]) -> Iterator[str]:
    if len(saved.shards) != len(datasets):
        yield f"datasets: {len(saved.shards)} -> {len(datasets)}"
        return
    for number, (dataset, shards) in enumerate(zip(datasets, saved.shards, strict=True)):
        before = saved.roots[number * HEX : (number + 1) * HEX]
        held = len(dataset.shard_firsts) - 1
        if shards > held:
            yield f"dataset {dataset.path}: {shards} shards -> {held}; it was compacted or built anew"
        elif (now := _root(dataset, shards)) != before:
            which = "" if shards == held else f" of its first {shards} shards"
            yield f"dataset {dataset.path}: root digest{which} {before} -> {now}"
    lost = False
    for dataset, count in zip(datasets, saved.generations, strict=bool(saved.generations)):
        if count > (found := len(dataset.removals())):
            lost = True
            yield f"dataset {dataset.path}: {count} removals (tombstones) -> {found}"
    if not lost and (removed := digest(datasets, saved.generations)) != saved.removed:
        yield f"removals (tombstones): digest {saved.removed} -> {removed}"


def _root(dataset: Dataset, shards: int) -> str:
    """Of its first shards."""
    if shards == len(dataset.shard_firsts) - 1:
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
    first = _held(datasets, spec, extents[0])
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
        super().__init__(datasets, spec, family, templates, held=_held(datasets, spec, extents[-1]))
        self._begins = [extent.epoch for extent in extents]
        self._planners = [
            Planner(datasets, spec, family, templates, held=_held(datasets, spec, extent)) for extent in extents
        ]

    def block(self, at: Position) -> Block:
        return self._of(at.epoch).block(at)

    def following(self, at: Position) -> Position:
        return self._of(at.epoch).following(at)

    def _of(self, epoch: int) -> Planner:
        return self._planners[max(0, bisect.bisect_right(self._begins, epoch) - 1)]


def _held(datasets: Sequence[Dataset], spec: StreamSpec, extent: Extent) -> list[Held]:
    generations = extent.generations or [0] * len(datasets)
    return [
        held(dataset, shards, each.limit, generation)
        for dataset, shards, each, generation in zip(datasets, extent.shards, spec.sources, generations, strict=True)
    ]
