"""A build shared by several processes or machines: each maps every n-th unit, and one commits all of them in order.

`.build/mapped/worker-2-of-8.json` says that a worker has mapped all of its units, and how many there are in all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmdata.engine import mapped
from mmdata.engine.local import Unit
from mmdata.errors import RunError, SpecError
from mmdata.shards.manifest import read_json
from mmdata.shards.storage import write_atomic
from mmdata.spec import BuildSpec, Record


@dataclass(frozen=True, slots=True)
class Share:
    """Worker `index` of `workers`, counted from 0."""

    index: int
    workers: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """`i/n`, as SLURM's array index counts: 0 <= i < n. Raises SpecError.

        >>> Share.parse("2/8")
        Share(index=2, workers=8)
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not int(found[1]) < int(found[2]):
            raise SpecError(f"--worker {text}: give i/n with i from 0 to n - 1, as in 0/8 to 7/8")
        return cls(int(found[1]), int(found[2]))

    @property
    def mark(self) -> str:
        return f"{mapped.FOLDER}/worker-{self.index}-of-{self.workers}.json"


def fair(spec: BuildSpec, share: Share) -> BuildSpec:
    """The spec of one worker: a host is asked no more often by all of them than by one build alone."""
    rate = spec.fetch.per_host_rate / share.workers
    fetch = spec.fetch.model_copy(update={"per_host_rate": rate})
    return spec.model_copy(update={"fetch": fetch})


def units(
    every: Iterator[tuple[int, Iterator[Record]]], folder: Path, share: Share, seen: list[int]
) -> Iterator[tuple[int, Iterator[Record]]]:
    """The units of a share that are still to be mapped. `seen` is given the number of each one."""
    for number, rows in every:
        seen.append(number)
        if number % share.workers == share.index and not mapped.place(folder, number).exists():
            yield number, rows
        else:
            for _ in rows:  # a source gives its rows in order
                pass


def end(folder: Path, share: Share, count: int) -> None:
    """Say that all units of a share are mapped, of so many in all."""
    write_atomic(folder / share.mark, json.dumps({"units": count}).encode())


def count(folder: Path) -> int:
    """Units of a build whose workers have all ended. Raises RunError that names those that have not."""
    marks = sorted((folder / mapped.FOLDER).glob("worker-*-of-*.json"))
    if not marks:
        raise RunError(f"{folder}: no worker has ended; run --worker 0/n to n-1/n first")
    ended = {tuple(map(int, re.findall(r"\d+", path.name))): int(read_json(path)["units"]) for path in marks}
    sizes = {workers for _, workers in ended}
    if len(sizes) > 1:
        listed = ", ".join(path.stem for path in marks)
        raise RunError(
            f"{folder}: workers of different shares have ended ({listed}); remove the marks of all but one n"
        )
    workers = sizes.pop()
    missing = [f"{index}/{workers}" for index in range(workers) if (index, workers) not in ended]
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise RunError(
            f"{folder}: --worker {', '.join(missing[:8])}{more} has not ended; run it (again) before --finish"
        )
    if len(set(ended.values())) > 1:
        raise RunError(f"{folder}: workers saw different numbers of units: {ended}; the source changed under them")
    return next(iter(ended.values()))


def handed(folder: Path, first: int, stop: int) -> Iterator[Unit]:
    """The mapped units from `first` to `stop`, in order. Raises RunError for one that is missing."""
    for number in range(first, stop):
        if not mapped.place(folder, number).exists():
            raise RunError(
                f"{mapped.place(folder, number)}: no such file; run the worker that maps unit {number} again"
            )
        yield mapped.read(folder, number)
