"""`python -m mmdata.build`: raw sources to a verified dataset, resumable at any moment, with nothing lost."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import gc
import importlib
import itertools
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

if __name__ == "__main__":
    gc.disable()  # importing makes much that stays: looking for garbage in it is a tenth of the time that it takes

from mmdata import __version__, specfile, startup
from mmdata.engine import commit, local, recover
from mmdata.engine.local import Finished, OrderedSteps
from mmdata.engine.pool import Process, fork_workers
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

Report = Callable[..., ahead.Made]
"""What makes statistics and report: `ahead.make`, or a process that has made ready for it."""


class Interrupted(RunError):
    """The run was asked to stop (SIGINT, SIGTERM). What was committed stays; the same command goes on."""


def build_dataset(
    spec: BuildSpec | str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    retry: bool = False,
    quiet: bool = False,
) -> Manifest:
    """Build a dataset, resume an interrupted build, or (`retry`) redo its transient failures.

    `spec` is a loaded BuildSpec, a spec file, or the name of a shipped pipeline; `overrides` are `a.b=value`.
    Returns the manifest. Raises SpecError (the spec, or a resume with another spec), DataError (unreadable
    input, damaged dataset) and RunError (disk full, output not writable, a bug in a step, interrupted).
    """
    if not isinstance(spec, BuildSpec):
        spec, _ = specfile.load_build(os.fspath(spec), overrides)
    return _build(spec, ahead.make, retry=retry, quiet=quiet)


def _build(spec: BuildSpec, report: Report, *, retry: bool, quiet: bool) -> Manifest:
    folder = _folder(spec)
    # First of all, while this process has one thread: reading tables starts others.
    forked = fork_workers(spec.steps, local.worker_count(spec))
    try:
        source = spec.source.open()
        commit.prepare(folder)
        with _lock(folder):
            job = _Job.open(spec, source, folder, quiet, forked, report)
            if retry:
                return job.retry()
            return job.build()
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
def _lock(folder: Path) -> Iterator[None]:
    """One build at a time per dataset. The kernel drops the lock with the process, however it ends."""
    with open(folder / ".build" / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another build is writing to this dataset") from None
        yield


def bound_spec(spec: BuildSpec, source: Source) -> dict[str, Any]:
    """What a dataset is bound to: the spec without its run-time fields, the input files, the plugins' code."""
    plugins = {}
    for name in spec.plugins:
        file = name if name.endswith(".py") else getattr(importlib.import_module(name), "__file__", None)
        plugins[Path(name).name] = sha256_file(Path(file)) if file else ""
    return {"spec": specfile.bound(spec), "inputs": source.inputs(), "plugins": plugins}


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

    @classmethod
    def open(
        cls, spec: BuildSpec, source: Source, folder: Path, quiet: bool, forked: list[Process], report: Report
    ) -> _Job:
        """Bind the folder to the spec (or refuse another one) and complete what a kill has cut short."""
        bound = bound_spec(spec, source)
        path = folder / ".build" / "build.json"
        if path.exists():
            before = manifests.read_json(path)
            changes = list(specfile.difference(before, bound))
            if changes:
                raise SpecError(
                    "\n".join(
                        [
                            f"{folder} was begun with another spec or input; build to another output.path, "
                            "or take these changes back:",
                            *(f"  {change}" for change in changes),
                        ]
                    )
                )
        elif (folder / "manifest.json").exists():
            raise SpecError(f"{folder} holds a dataset without its build state; build to another output.path")
        else:
            write_atomic(path, commit.canonical(bound))
        if recover.publishing(folder) is not None:
            recover.publish(folder)  # first: until then a unit's files are newer than its record
        committed = commit.roll_forward(folder)
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

    def build(self) -> Manifest:
        if (mark := recover.publishing(self.folder)) is not None:
            return self._publish(mark)
        if (self.folder / "manifest.json").exists():
            manifest = manifests.read(self.folder)
            self._say(f"{self.folder} is complete ({manifest.samples:,} samples); nothing to do")
            return manifest
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

        rows, memory = self._run(iter(grouped), ordered, write, self._total(start))
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
        self, units: Iterator[tuple[int, Iterator[Record]]], ordered: OrderedSteps, write: Any, total: int | None
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
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: the caller's business
                    loop.add_signal_handler(number, stop.set)
            await local.run(
                self.spec,
                units,
                folder=self.folder,
                ordered=ordered,
                commit=lambda finished: write(finished, progress),
                on_row=count,
                stop=stop,
                memory=memory,
                forked=self.forked,
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


def dry_run(spec: BuildSpec) -> str:
    """What a build would do, from metadata alone: nothing is fetched and nothing written."""
    source = spec.source.open()
    states: Counter[tuple[str, str]] = Counter()
    hosts: Counter[str] = Counter()
    rows = 0
    for record in source.records(0, spec.limit):
        rows += 1
        if record.drop is not None:
            states[record.drop.state, record.drop.reason] += 1
        for media in record.sample.media if record.drop is None else ():
            hosts[_host(media.uri or "")] += 1
    folder = _folder(spec)
    done = len(list((folder / ".build" / "units").glob("*.json")))
    units = -(-rows // spec.output.unit_rows)
    lines = [
        f"source    {spec.source.kind}: {rows:,} input rows"
        + "".join(f"\n          {count:,} {state}: {reason}" for (state, reason), count in sorted(states.items())),
        f"fetch     {sum(hosts.values()):,} media from {len(hosts):,} hosts: "
        + ", ".join(f"{host} {count:,}" for host, count in hosts.most_common(5)),
        "          at most {:g}/s and {} at once per host, {} at once in all, {} retries, robots.txt {}".format(
            spec.fetch.per_host_rate,
            spec.fetch.per_host_concurrency,
            spec.fetch.concurrency,
            spec.fetch.retries,
            "obeyed" if spec.fetch.respect.robots else "NOT obeyed",
        ),
        "steps     " + " -> ".join(step.kind for step in spec.steps),
        f"output    {folder}: {units:,} units of {spec.output.unit_rows:,} rows, {done:,} committed already",
    ]
    busiest = max(hosts.values(), default=0)
    if busiest:
        lines.append(
            f"time      at least {busiest / spec.fetch.per_host_rate:,.0f} s, by the rate limit of the busiest host"
        )
    return "\n".join(lines)


def _host(uri: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "(not a URL)"
    return parts.netloc if parts.scheme in ("http", "https") else f"({parts.scheme or 'local'} files)"


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
            print(dry_run(spec))
            return 0
        if not spec.plugins:
            startup.spare_pandas()
        with ahead.Reporter() as reporter:
            manifest = _build(spec, reporter.make, retry=arguments.retry is not None, quiet=arguments.quiet)
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
