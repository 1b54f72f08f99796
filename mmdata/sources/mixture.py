"""Several sources as one: taken in turns by weight, each record told by the name of its source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, create_model, field_validator

from mmdata.registry import register
from mmdata.spec import MADE, Model, Record, Source, SourceSpec
from mmdata.types import Origin


class MixturePart(Model):
    """One of the sources."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")
    """What its records are told by: `source` in their JSON, and before their keys and origins."""
    source: SourceSpec
    """Of any kind but a mixture."""
    weight: float = Field(1.0, gt=0)
    """How many of its records come for how many of the others'. Each record comes once: when a source ends, the others
    go on. To train on a mixture by weights, and to repeat, weigh when streaming."""
    limit: int | None = Field(None, ge=1)
    """Use its first so many rows."""
    task: str | None = None
    """What the trainer counts its losses under: `task` in the JSON of its records. Default: what they say, else
    `name`."""


@register("source", "mixture")
class Mixture(SourceSpec):
    """Several sources in one build. Keys become `NAME-KEY`, origins `NAME/ORIGIN`, so that reports and merged datasets
    tell sources apart; the records of all come mixed by weight from the first shard on."""

    kind: Literal["mixture"] = "mixture"
    sources: tuple[MixturePart, ...] = Field(min_length=1)
    """The sources, each with a name."""

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, value: tuple[MixturePart, ...]) -> tuple[MixturePart, ...]:
        listed = [part.name for part in value]
        if twice := sorted({name for name in listed if listed.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)}: two sources of one name; give each its own")
        return value

    @classmethod
    def of(cls, union: Any) -> type[Mixture]:
        """This class with `union`, of the other kinds, as the type of its sources."""
        told = MixturePart.model_fields["source"].description
        part = create_model(
            "MixturePart",
            __base__=MixturePart,
            __doc__=MixturePart.__doc__,
            __cls_kwargs__=MADE,
            source=(union, Field(description=told)),
        )
        sources = Field(min_length=1, description=cls.model_fields["sources"].description)
        return create_model(
            "Mixture",
            __base__=cls,
            __doc__=cls.__doc__,
            __cls_kwargs__=MADE,
            sources=(tuple[part, ...], sources),  # type: ignore[valid-type]
        )

    def searched(self) -> tuple[str, ...]:
        return tuple(path for part in self.sources for path in part.source.searched())

    def open(self) -> Source:
        return _Mixed(self.sources)


class _Mixed:
    def __init__(self, parts: tuple[MixturePart, ...]) -> None:
        self._parts = parts
        self._sources = [part.source.open() for part in parts]
        self._counts = [self._known(number) for number in range(len(parts))]

    def inputs(self) -> list[dict[str, Any]]:
        return [
            {"source": part.name, **told}
            for part, source in zip(self._parts, self._sources, strict=True)
            for told in source.inputs()
        ]

    def count(self) -> int | None:
        known = [count for count in self._counts if count is not None]
        return sum(known) if len(known) == len(self._counts) else None

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        taken = self._taken(start)
        rest: dict[int, Iterator[Record]] = {
            number: source.records(taken[number], part.limit)
            for number, (part, source) in enumerate(zip(self._parts, self._sources, strict=True))
        }
        row = start
        while rest and (stop is None or row < stop):
            number = self._next(taken, list(rest))
            record = next(rest[number], None)
            if record is None:
                del rest[number]
                continue
            taken[number] += 1
            yield self._named(row, number, record)
            row += 1

    def _next(self, taken: list[int], numbers: list[int]) -> int:
        """Whose turn it is: the one that is furthest behind its share, the first of those that are alike."""
        return min(numbers, key=lambda number: (taken[number] + 1) / self._parts[number].weight)

    def _taken(self, rows: int) -> list[int]:
        """How many records of each source are among the first so many. Sources that do not know how many rows they have
        are counted first, unless the beginning is wanted."""
        taken = [0] * len(self._parts)
        if rows == 0:
            return taken
        counts = [self._count(number) for number in range(len(self._parts))]
        left = list(range(len(self._parts)))
        for _ in range(rows):
            left = [number for number in left if taken[number] < counts[number]]
            if not left:
                break
            taken[self._next(taken, left)] += 1
        return taken

    def _known(self, number: int) -> int | None:
        count, limit = self._sources[number].count(), self._parts[number].limit
        return count if limit is None or count is None else min(count, limit)

    def _count(self, number: int) -> int:
        count = self._counts[number]
        if count is None:
            count = sum(1 for _ in self._sources[number].records(0, self._parts[number].limit))
            self._counts[number] = count
        return count

    def _named(self, row: int, number: int, record: Record) -> Record:
        part, sample = self._parts[number], record.sample
        task = part.task or sample.meta.get("task") or part.name
        sample = replace(
            sample,
            key=f"{part.name}-{sample.key}",
            origin=Origin(uri=f"{part.name}/{sample.origin.uri}", row=sample.origin.row),
            meta={**sample.meta, "source": part.name, "task": task},
        )
        return Record(row=row, sample=sample, drop=record.drop)
