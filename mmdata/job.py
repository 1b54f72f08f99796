"""One run of a build in its folder: from where an earlier one ended, through the engine, to the manifest."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import functools
import itertools
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmdata.engine import binding, commit, local, mapped, recover, shares
from mmdata.engine.local import Finished, Unit
from mmdata.engine.ordered import OrderedSteps
from mmdata.engine.pool import Process
from mmdata.engine.shares import Share
from mmdata.engine.spool import Memory
from mmdata.errors import DataError, RunError
from mmdata.outputs.finish import Report, finish
from mmdata.progress import Progress
from mmdata.shards import manifest as manifests
from mmdata.shards.dataset import Dataset
from mmdata.shards.index import Index
from mmdata.shards.manifest import Manifest
from mmdata.shards.table import ShardEntry
from mmdata.spec import BuildSpec, Record, Source

Task = Literal["build", "retry", "finish"]


class Interrupted(RunError):
    """The run was asked to stop (SIGINT, SIGTERM). What was committed stays; the same command goes on."""


@dataclass(slots=True, kw_only=True)
class Job:
    """A folder that is bound to a spec and a source, and the units of it that are committed."""

    spec: BuildSpec
    source: Source
    folder: Path
    bound: dict[str, Any]
    committed: list[ShardEntry]
    quiet: bool
    forked: list[Process]
    report: Report
    completed: Manifest | None = None
    """Of a change that an earlier run made and could not publish to its end."""
    started: float = field(default_factory=time.time)
    halted: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(
        cls,
        spec: BuildSpec,
        source: Source,
        folder: Path,
        *,
        quiet: bool,
        forked: list[Process],
        report: Report,
        shared: bool,
        append: bool,
    ) -> Job:
        """Bind the folder to the spec (or refuse another one) and, unless workers share it, complete what a kill has
        cut short."""
        mark = recover.publishing(folder)
        if mark is not None and (shared or mark.get("by") == recover.COMPACT):
            command = "`python -m mmdata.compact`" if mark.get("by") == recover.COMPACT else "the last command"
            raise RunError(f"{folder}: {command} was interrupted while publishing; run it again to finish")
        # First: until then a unit's files are newer than its record, and the manifest older than both.
        completed = None if mark is None else _publish(folder, mark, report)
        bound = binding.bind(folder, spec, source, append=append, shared=shared)
        committed = [value.entry for value in commit.records(folder)] if shared else commit.roll_forward(folder)
        for at, entry in enumerate(committed):
            if entry.unit != at:
                raise DataError("commit_record", f"{folder}/.build/units: unit {at} is missing; remove all later ones")
        return cls(
            spec=spec,
            source=source,
            folder=folder,
            bound=bound,
            committed=committed,
            quiet=quiet,
            forked=forked,
            report=report,
            completed=completed,
        )

    @property
    def start(self) -> int:
        """The first input row that is not committed. What was appended begins a unit of its own, so that the last one
        before it may be short."""
        return self.committed[-1].input_first + self.committed[-1].input_rows if self.committed else 0

    def do(self, task: Task) -> Manifest:
        return {"build": self.build, "retry": self.retry, "finish": self.finish}[task]()

    def map(self, share: Share) -> None:
        """Do the worker's part of a shared build."""
        spec = shares.fair(self.spec, share)
        (self.folder / mapped.FOLDER).mkdir(exist_ok=True)
        seen = list(range(len(self.committed)))
        units = shares.units(self._units(), self.folder, share, seen)
        total = (self._total(self.start) or 0) // share.workers or None
        write = functools.partial(mapped.write, self.folder)
        self._run(units, OrderedSteps(spec), None, total, spec=spec, hand_over=write)
        shares.end(self.folder, share, len(seen))

    def finish(self) -> Manifest:
        """Commit what workers have mapped."""
        if self._published():
            return self.build()
        count = shares.count(self.folder)
        return self._build(shares.handed(self.folder, len(self.committed), count))

    def build(self) -> Manifest:
        if self._published():
            manifest = manifests.read(self.folder)
            self._say(f"{self.folder} is complete ({manifest.samples:,} samples); nothing to do")
            return manifest
        if self.spec.engine.kind == "ray":
            from mmdata.engine import ray

            listings = binding.listings(self.folder, self.bound)
            units = ray.units(
                self.spec, self.folder, len(self.committed), self.start, listings=listings, halted=self.halted
            )
            return self._build(units)
        return self._build()

    def _published(self) -> bool:
        """Whether there is a manifest, and of all that the folder is bound to."""
        return (self.folder / "manifest.json").exists() and binding.appending(self.folder) is None

    def _units(self) -> Iterator[tuple[int, Iterator[Record]]]:
        """What is not committed, unit by unit."""
        first, start, size = len(self.committed), self.start, self.spec.output.unit_rows
        records = self.source.records(start, self.spec.limit)
        return itertools.groupby(records, key=lambda record: first + (record.row - start) // size)

    def _build(self, handed: Iterator[Unit] | None = None) -> Manifest:
        """Build what is not committed yet, from the source or from units that are mapped already."""
        generation = binding.appending(self.folder)
        if start := self.start:
            doing = "resuming" if generation is None else "appending"
            self._say(f"{doing} after {len(self.committed)} committed units ({start:,} input rows)")
        ordered = OrderedSteps(self.spec)
        for entry in self.committed:
            self._restore(ordered, self.folder / entry.index if entry.index else None, entry.index_crc32c)

        def write(finished: Finished, progress: Progress) -> None:
            first = finished.rows[0].row
            entry, rows = commit.write_unit(self.folder, finished.number, first, finished.kept, finished.rows)
            commit.record(self.folder, entry, rows)
            commit.publish(self.folder, entry)
            self.committed.append(entry)
            progress.commit(entry.unit, entry.rows)
            if handed is not None:
                mapped.place(self.folder, entry.unit).unlink()

        rows, memory = self._run(self._units(), ordered, write, self._total(start), handed=handed)
        if not self.committed:
            raise DataError("source_empty", f"{self.folder}: the source has no rows")
        figures = self._figures(rows, memory)
        if generation is None:
            return finish(self.folder, self.bound, self.report, generation=0, run=figures)
        return self._begin_publish(generation, "appends", figures)

    def _begin_publish(self, generation: int, what: str, figures: dict[str, Any]) -> Manifest:
        """Publish a change to a finished dataset. The figures of the report stay those of the build; those of the run
        that changed it are listed beside them."""
        run = manifests.read_json(self.folder / "stats.json")["run"]
        run[what] = [*run.get(what, ()), figures]
        recover.begin_publish(self.folder, generation, run)
        mark = recover.publishing(self.folder)
        assert mark is not None
        return _publish(self.folder, mark, self.report)

    def retry(self) -> Manifest:
        if self.completed is not None:
            return self.completed
        if binding.appending(self.folder) is not None:
            raise RunError(f"{self.folder}: an append has begun; run the command without --retry first, to end it")
        manifest = manifests.read(self.folder)
        wanted = recover.transient_rows(self.folder, manifest)
        total = sum(len(rows) for rows in wanted.values())
        if not total:
            self._say(f"{self.folder}: no record failed transiently; nothing to retry")
            return manifest
        generation = manifest.generation + 1
        done = recover.prepare(self.folder, generation)
        self._say(f"retrying {total:,} records in {len(wanted)} units" + (f", {len(done)} done" if done else ""))
        dataset = Dataset(self.folder)
        ordered = OrderedSteps(self.spec)
        for entry in self.committed:
            self._restore(ordered, self.folder / entry.index if entry.index else None, entry.index_crc32c)
        for unit in sorted(done):
            staged = self.folder / commit.staged(commit.UnitFiles.of(self.committed[unit]).index, recover.AREA)
            self._restore(ordered, staged if staged.exists() else None, None)
        rest = {row for unit, rows in wanted.items() if unit not in done for row in rows}
        rows, memory = 0, Memory(self._memory_limit())
        if rest:
            records = (r for r in self.source.records(min(rest), max(rest) + 1) if r.row in rest)
            firsts = [entry.input_first for entry in self.committed]
            grouped = itertools.groupby(records, key=lambda record: bisect.bisect_right(firsts, record.row) - 1)

            def write(finished: Finished, progress: Progress) -> None:
                recover.rewrite(self.folder, dataset, finished)
                progress.commit(finished.number, len(finished.rows))

            rows, memory = self._run(iter(grouped), ordered, write, len(rest))
        return self._begin_publish(generation, "retries", self._figures(rows, memory))

    def _restore(self, ordered: OrderedSteps, path: Path | None, crc: int | None) -> None:
        """Let the ordered steps remember what an earlier run kept."""
        if path is not None:
            for row in Index(path, crc32c=crc).rows():
                ordered.keep(row.key, row.signatures)

    def _total(self, start: int) -> int | None:
        count = self.source.count()
        bounds = [bound for bound in (count, self.spec.limit) if bound is not None]
        return max(0, min(bounds) - start) if bounds and (count is not None or self.spec.limit) else None

    def _memory_limit(self) -> int:
        return self.spec.engine.memory_mib * (1 << 20) // 2

    def _run(
        self,
        units: Iterator[tuple[int, Iterator[Record]]],
        ordered: OrderedSteps,
        write: Any,
        total: int | None,
        *,
        spec: BuildSpec | None = None,
        handed: Iterator[Unit] | None = None,
        hand_over: local.HandOver | None = None,
    ) -> tuple[int, Memory]:
        """Run the engine until the units are done; returns rows handled and memory figures."""
        memory = Memory(self._memory_limit())
        rows = 0

        def count(state: str, reason: str) -> None:
            nonlocal rows
            rows += 1
            progress.update(state, reason)

        async def main() -> bool:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()

            def halt() -> None:
                stop.set()
                self.halted.set()

            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: the caller's business
                    loop.add_signal_handler(number, halt)
            await local.run(
                spec or self.spec,
                units,
                folder=self.folder,
                ordered=ordered,
                commit=lambda finished: write(finished, progress),
                on_row=count,
                stop=stop,
                memory=memory,
                forked=self.forked,
                mapped=handed,
                hand_over=hand_over,
            )
            return stop.is_set()

        with Progress(total=total, quiet=self.quiet) as progress:
            stopped = asyncio.run(main())
        if stopped:
            raise Interrupted(
                f"interrupted: {len(self.committed)} units are committed in {self.folder}; "
                "run the same command again to resume"
            )
        return rows, memory

    def _figures(self, rows: int, memory: Memory) -> dict[str, Any]:
        """What the run cost. Of a resumed build these are the figures of its last run."""
        seconds = time.time() - self.started
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(seconds, 3),
            "records": rows,
            "records_per_second": round(rows / seconds, 2) if seconds else 0.0,
            "workers": local.worker_count(self.spec),
            "cpu_seconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 3),
            "cpu_seconds_workers": round(children.ru_utime + children.ru_stime, 3),
            "peak_rss_mib": round(own.ru_maxrss / 1024, 1),
            "peak_worker_rss_mib": round(children.ru_maxrss / 1024, 1),
            "spooled_bytes": memory.spilled,
        }

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr)


def _publish(folder: Path, mark: dict[str, Any], report: Report) -> Manifest:
    """Publish a change to a finished dataset, or go on where a kill has cut that short."""
    recover.publish(folder)
    commit.roll_forward(folder)
    bound = manifests.read_json(folder / ".build" / "build.json")
    manifest = finish(folder, bound, report, generation=mark["generation"], run=mark["run"])
    binding.end_append(folder)
    recover.end_publish(folder)
    return manifest
