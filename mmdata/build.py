"""`python -m mmdata.build`: raw sources to a verified dataset, resumable at any moment, with nothing lost."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import functools
import gc
import itertools
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

if __name__ == "__main__":
    gc.disable()  # importing makes much that stays: looking for garbage in it is a tenth of the time that it takes

from mmdata import __version__, specfile, startup
from mmdata.engine import binding, commit, local, mapped, recover, shares
from mmdata.engine.dry_run import dry_run
from mmdata.engine.local import Finished, OrderedSteps, Unit
from mmdata.engine.pool import Process, fork_workers
from mmdata.engine.shares import Share
from mmdata.engine.spool import Memory
from mmdata.engine.summary import summary
from mmdata.errors import DataError, RunError, SpecError
from mmdata.outputs import card
from mmdata.progress import Progress
from mmdata.report_page import ahead
from mmdata.shards import manifest as manifests
from mmdata.shards.dataset import Dataset
from mmdata.shards.index import Index
from mmdata.shards.manifest import Manifest
from mmdata.shards.storage import sha256_file, write_atomic
from mmdata.shards.table import ShardEntry
from mmdata.spec import BuildSpec, Record, Source

Task = Literal["build", "retry", "finish"]
Report = Callable[..., ahead.Made]
"""What makes statistics and report: `ahead.make`, or a process that has made ready for it."""


class Interrupted(RunError):
    """The run was asked to stop (SIGINT, SIGTERM). What was committed stays; the same command goes on."""


def build_dataset(
    spec: BuildSpec | str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    retry: bool = False,
    finish: bool = False,
    quiet: bool = False,
) -> Manifest:
    """Build a dataset, resume an interrupted build, (`retry`) redo its transient failures, or (`finish`) commit what
    the workers of a shared build have mapped (`build_share`).

    `spec` is a loaded BuildSpec, a spec file, or the name of a shipped pipeline; `overrides` are `a.b=value`.
    Returns the manifest. Raises SpecError (the spec, or a resume with another spec), DataError (unreadable
    input, damaged dataset) and RunError (disk full, output not writable, a bug in a step, interrupted).
    """
    if not isinstance(spec, BuildSpec):
        spec, _ = specfile.load_build(os.fspath(spec), overrides)
    task: Task = "retry" if retry else "finish" if finish else "build"
    with _opened(spec, ahead.make, quiet=quiet) as job:
        return job.do(task)


def build_share(
    spec: BuildSpec | str | os.PathLike[str], worker: str, overrides: Sequence[str] = (), *, quiet: bool = False
) -> None:
    """Do the part of worker `i/n` of a build that several processes or machines share: fetch and map every n-th unit
    into `.build/mapped`; `build_dataset(..., finish=True)` commits them. A host is asked at an n-th of its rate.

    Raises as `build_dataset` does. A killed worker goes on where it was when it is called again.
    """
    if not isinstance(spec, BuildSpec):
        spec, _ = specfile.load_build(os.fspath(spec), overrides)
    share = Share.parse(worker)
    with _opened(spec, ahead.make, quiet=quiet, share=share) as job:
        job.map(share)


@contextlib.contextmanager
def _opened(spec: BuildSpec, report: Report, *, quiet: bool, share: Share | None = None) -> Iterator[_Job]:
    folder = _folder(spec)
    # First of all, while this process has one thread: reading tables starts others.
    forked = fork_workers(spec.steps, local.worker_count(spec))
    try:
        source = spec.source.open()
        commit.prepare(folder)
        with contextlib.ExitStack() as locks:
            locks.enter_context(_lock(folder, "lock", shared=share is not None))
            if share is not None:
                locks.enter_context(_lock(folder, f"lock-{share.index}-of-{share.workers}"))
            yield _Job.open(spec, source, folder, quiet, forked, report, shared=share is not None)
    except OSError as error:
        where = getattr(error, "filename", None) or folder
        raise RunError(
            f"{where}: {error.strerror or error}; units committed so far are safe, run again to resume"
        ) from error
    finally:
        for process in forked:
            process.kill()
            process.end()


def _folder(spec: BuildSpec) -> Path:
    if "://" in spec.output.path:
        raise SpecError(f"output.path: {spec.output.path}: a build writes to a local folder; copy it from there")
    return Path(spec.output.path)


@contextlib.contextmanager
def _lock(folder: Path, name: str, *, shared: bool = False) -> Iterator[None]:
    """One build at a time per dataset, or workers of one. The kernel drops the lock with the process, however it
    ends."""
    with open(folder / ".build" / name, "w") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another build is writing to this dataset") from None
        yield


@dataclass(slots=True, kw_only=True)
class _Job:
    spec: BuildSpec
    source: Source
    folder: Path
    bound: dict[str, Any]
    committed: list[ShardEntry]
    quiet: bool
    started: float
    forked: list[Process]
    report: Report
    halted: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(
        cls,
        spec: BuildSpec,
        source: Source,
        folder: Path,
        quiet: bool,
        forked: list[Process],
        report: Report,
        *,
        shared: bool,
    ) -> _Job:
        """Bind the folder to the spec (or refuse another one) and, unless workers share it, complete what a kill has
        cut short."""
        bound = binding.bind(folder, binding.bound_spec(spec, source))
        if not shared and recover.publishing(folder) is not None:
            recover.publish(folder)  # first: until then a unit's files are newer than its record
        committed = [] if shared else commit.roll_forward(folder)
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
            started=time.time(),
            forked=forked,
            report=report,
        )

    def do(self, task: Task) -> Manifest:
        return {"build": self.build, "retry": self.retry, "finish": self.finish}[task]()

    def map(self, share: Share) -> None:
        """Do the worker's part of a shared build."""
        spec = shares.fair(self.spec, share)
        (self.folder / mapped.FOLDER).mkdir(exist_ok=True)
        seen: list[int] = []
        units = shares.units(self.source.records(0, spec.limit), spec.output.unit_rows, self.folder, share, seen)

        total = (self._total(0) or 0) // share.workers or None
        write = functools.partial(mapped.write, self.folder)
        self._run(units, OrderedSteps(spec), None, total, spec=spec, hand_over=write)
        shares.end(self.folder, share, len(seen))

    def finish(self) -> Manifest:
        """Commit what workers have mapped."""
        if (self.folder / "manifest.json").exists():
            return self.build()
        count = shares.count(self.folder)
        return self._build(shares.handed(self.folder, len(self.committed), count))

    def build(self) -> Manifest:
        if (mark := recover.publishing(self.folder)) is not None:
            return self._publish(mark)
        if (self.folder / "manifest.json").exists():
            manifest = manifests.read(self.folder)
            self._say(f"{self.folder} is complete ({manifest.samples:,} samples); nothing to do")
            return manifest
        if self.spec.engine.kind == "ray":
            from mmdata.engine import ray

            return self._build(ray.units(self.spec, self.folder, len(self.committed), halted=self.halted))
        return self._build()

    def _build(self, handed: Iterator[Unit] | None = None) -> Manifest:
        """Build what is not committed yet, from the source or from units that are mapped already."""
        unit_rows = self.spec.output.unit_rows
        start = len(self.committed) * unit_rows
        if self.committed and self.committed[-1].input_rows < unit_rows:
            start = self.committed[-1].input_first + self.committed[-1].input_rows
        if start:
            self._say(f"resuming after {len(self.committed)} committed units ({start:,} input rows)")
        ordered = OrderedSteps(self.spec)
        for entry in self.committed:
            self._restore(ordered, self.folder / entry.index if entry.index else None, entry.index_crc32c)
        grouped = itertools.groupby(self.source.records(start, self.spec.limit), key=lambda r: r.row // unit_rows)

        def write(finished: Finished, progress: Progress) -> None:
            first = finished.rows[0].row
            entry, rows = commit.write_unit(self.folder, finished.number, first, finished.kept, finished.rows)
            commit.record(self.folder, entry, rows)
            commit.publish(self.folder, entry)
            self.committed.append(entry)
            progress.commit(entry.unit, entry.rows)
            if handed is not None:
                mapped.place(self.folder, entry.unit).unlink()

        rows, memory = self._run(iter(grouped), ordered, write, self._total(start), handed=handed)
        if not self.committed:
            raise DataError("source_empty", f"{self.folder}: the source has no rows")
        return self._finish(0, self._figures(rows, memory))

    def retry(self) -> Manifest:
        if (mark := recover.publishing(self.folder)) is not None:
            return self._publish(mark)
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
            staged = self.folder / commit.staged(commit.UnitFiles(number=unit).index, recover.AREA)
            self._restore(ordered, staged if staged.exists() else None, None)
        rest = {row for unit, rows in wanted.items() if unit not in done for row in rows}
        rows, memory = 0, Memory(self._memory_limit())
        if rest:
            records = (r for r in self.source.records(min(rest), max(rest) + 1) if r.row in rest)
            grouped = itertools.groupby(records, key=lambda record: record.row // self.spec.output.unit_rows)

            def write(finished: Finished, progress: Progress) -> None:
                recover.rewrite(self.folder, dataset, finished)
                progress.commit(finished.number, len(finished.rows))

            rows, memory = self._run(iter(grouped), ordered, write, len(rest))
        # The figures of the report stay those of the build; a retry's are listed beside them.
        run = manifests.read_json(self.folder / "stats.json")["run"]
        run["retries"] = [*run.get("retries", ()), self._figures(rows, memory)]
        recover.begin_publish(self.folder, generation, run)
        mark = recover.publishing(self.folder)
        assert mark is not None
        return self._publish(mark)

    def _publish(self, mark: dict[str, Any]) -> Manifest:
        recover.publish(self.folder)
        self.committed = [value.entry for value in commit.records(self.folder)]
        manifest = self._finish(mark["generation"], mark["run"])
        recover.end_publish(self.folder)
        return manifest

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

    def _finish(self, generation: int, run: dict[str, Any]) -> Manifest:
        """Sum the ledger, write statistics and report, and last of all the manifest."""
        values = list(commit.records(self.folder))
        counts, reasons = commit.sums(values)
        first, entries = 0, []
        for value in values:
            entry = value.entry.model_copy(update={"first": first})
            first += entry.rows
            entries.append(entry)
        input_rows = sum(entry.input_rows for entry in entries)
        if sum(counts.values()) != input_rows or counts["ok"] != first:
            raise RunError(
                f"{self.folder}: the ledger does not add up: {counts} for {input_rows} input rows and "
                f"{first} samples; no manifest is written"
            )
        manifest = Manifest(
            generation=generation,
            created_by=f"mmdata {__version__}",
            spec=self.bound["spec"],
            spec_digest=specfile.digest(self.bound["spec"]),
            inputs=self.bound["inputs"],
            plugins=self.bound["plugins"],
            input_rows=input_rows,
            samples=first,
            counts=counts,
            reasons=reasons,
            shards=entries,
            root_digest=manifests.root_digest(entries),
        )
        figures, page = self.report(self.folder, manifest, run, seed=self.spec.output.seed)
        write_atomic(self.folder / "stats.json", (json.dumps(figures, indent=1, sort_keys=True) + "\n").encode())
        write_atomic(self.folder / "report.html", page)
        write_atomic(self.folder / "README.md", card.render(manifest, figures=figures).encode())
        files = {name: sha256_file(self.folder / name) for name in ("stats.json", "report.html", "README.md")}
        return manifests.write(self.folder, manifest.model_copy(update={"files": files}))

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.build",
        description="Build a verified dataset: fetch, check, filter, deduplicate, resize, write, account, report.",
        epilog=(
            "examples:\n"
            "  python -m mmdata.build --spec laion_subset.yaml --set source.path=metadata/ --output data/laion\n"
            "  python -m mmdata.build --spec my.yaml --dry-run            what would be done, from metadata alone\n"
            "  python -m mmdata.build --spec my.yaml --limit 1000         a first look\n"
            "  python -m mmdata.build --spec my.yaml                      again after a kill: resumes\n"
            "  python -m mmdata.build --spec my.yaml --retry transient    redo only what failed transiently\n\n"
            "exit codes: 0 done; 1 the run failed, what is committed is safe; 2 the spec or the input is wrong; "
            "130 interrupted."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--spec", required=True, metavar="FILE", help="spec file, or the name of a shipped pipeline")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key of the spec")
    parser.add_argument("--output", metavar="DIR", help="dataset folder, instead of the spec's output.path")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="use the first N input rows; part of the dataset's identity"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done; fetch and write nothing")
    parser.add_argument("--retry", choices=["transient"], help="redo records that failed transiently, and only those")
    parser.add_argument(
        "--worker", metavar="I/N", help="do every n-th unit only, from 0/N to N-1/N on as many machines (SLURM arrays)"
    )
    parser.add_argument("--finish", action="store_true", help="commit what all workers have done, in order")
    parser.add_argument("--push", metavar="URL", help="then copy it to any place that fsspec knows; again to go on")
    parser.add_argument("--push-replace", action="store_true", help="also where another dataset lies")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the summary")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    overrides = list(arguments.set)
    if arguments.output:
        overrides.append(f"output.path={json.dumps(str(Path(arguments.output).absolute()))}")
    if arguments.limit is not None:
        overrides.append(f"limit={arguments.limit}")
    sent: int | None = None
    try:
        spec, _ = specfile.load_build(arguments.spec, overrides)
        if arguments.dry_run:
            print(dry_run(spec, _folder(spec)))
            return 0
        if not spec.plugins:
            startup.spare_pandas()
        if arguments.worker is not None:
            build_share(spec, arguments.worker, quiet=arguments.quiet)
            print(f"worker {arguments.worker} has done its units; when all have: --finish")
            return 0
        task: Task = "retry" if arguments.retry else "finish" if arguments.finish else "build"
        with ahead.Reporter() as reporter, _opened(spec, reporter.make, quiet=arguments.quiet) as job:
            manifest = job.do(task)
        if arguments.push:
            from mmdata.outputs.push import push_dataset  # fsspec's stores take their time

            sent = push_dataset(_folder(spec), arguments.push, replace=arguments.push_replace)
    except (SpecError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    except KeyboardInterrupt:  # before or after the part of a run that takes care of signals
        print("error: interrupted; what is committed is safe, run the same command again to resume", file=sys.stderr)
        return 130
    print(summary(_folder(spec), manifest))
    if sent is not None:
        print(f"pushed: {sent} files to {arguments.push}" if sent else f"pushed: {arguments.push} has it already")
    return 0


if __name__ == "__main__":
    # The loop answers sockets between the threads that feed workers; 5 ms of waiting for each other is too long.
    sys.setswitchinterval(0.0005)
    gc.freeze()  # what was imported stays, and need not be looked through again
    gc.enable()
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is on disk; taking the interpreter apart would only cost 0.2 s
