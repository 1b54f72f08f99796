"""`python -m mmdata.build`: raw sources to a verified dataset, resumable at any moment, with nothing lost."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    gc.disable()  # importing makes much that stays: looking for garbage in it is a tenth of the time that it takes

from mmdata import startup, unread

if __name__ == "__main__":
    startup.spare_threads()  # before numpy comes; workers are processes, one a core

from mmdata import pointer, specfile
from mmdata.engine import binding, commit, local
from mmdata.engine.dry_run import dry_run
from mmdata.engine.pool import fork_workers
from mmdata.engine.shares import Share
from mmdata.engine.summary import summary
from mmdata.errors import DataError, RunError, SpecError
from mmdata.job import Interrupted, Job, Task
from mmdata.outputs.finish import Report
from mmdata.report_page import ahead
from mmdata.shards.manifest import Manifest
from mmdata.spec import BuildSpec

_APART = (
    ("append", "retry"),
    ("worker", "retry"),
    ("worker", "finish"),
    ("worker", "push"),
    ("finish", "retry"),
)
"""Flags of commands that are given one after the other."""


def build_dataset(
    spec: BuildSpec | str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    retry: bool = False,
    finish: bool = False,
    append: bool = False,
    quiet: bool = False,
) -> Manifest:
    """Build a dataset, resume an interrupted build, (`append`) add what the source has got since, (`retry`) redo its
    transient failures, or (`finish`) commit what the workers of a shared build have mapped (`build_share`).

    `spec` is a loaded BuildSpec, a spec file, or the name of a shipped pipeline; `overrides` are `a.b=value`.
    Returns the manifest. Raises SpecError (the spec, or a resume with another spec), DataError (unreadable
    input, damaged dataset) and RunError (disk full, output not writable, a bug in a step, interrupted).
    """
    if not isinstance(spec, BuildSpec):
        spec, _ = specfile.load_build(os.fspath(spec), overrides)
    task: Task = "retry" if retry else "finish" if finish else "build"
    with _opened(spec, ahead.make, quiet=quiet, append=append) as job:
        return job.do(task)


def build_share(
    spec: BuildSpec | str | os.PathLike[str],
    worker: str,
    overrides: Sequence[str] = (),
    *,
    append: bool = False,
    quiet: bool = False,
) -> None:
    """Do the part of worker `i/n` of a build that several processes or machines share: fetch and map every n-th unit
    into `.build/mapped`; `build_dataset(..., finish=True)` commits them. A host is asked at an n-th of its rate.

    Raises as `build_dataset` does. A killed worker goes on where it was when it is called again.
    """
    if not isinstance(spec, BuildSpec):
        spec, _ = specfile.load_build(os.fspath(spec), overrides)
    share = Share.parse(worker)
    with _opened(spec, ahead.make, quiet=quiet, share=share, append=append) as job:
        job.map(share)


@contextlib.contextmanager
def _opened(
    spec: BuildSpec, report: Report, *, quiet: bool, share: Share | None = None, append: bool = False
) -> Iterator[Job]:
    folder = _folder(spec)
    # First of all, while this process has one thread: reading tables starts others.
    forked = fork_workers(spec.steps, local.worker_count(spec), spec.engine.worker_memory_mib)
    try:
        source = spec.source.open()
        binding.refuse_others(folder)
        commit.prepare(folder)
        with contextlib.ExitStack() as locks:
            locks.enter_context(binding.locked(folder, "lock", shared=share is not None))
            if share is not None:
                locks.enter_context(binding.locked(folder, f"lock-{share.index}-of-{share.workers}"))
            yield Job.open(
                spec,
                source,
                folder,
                quiet=quiet,
                forked=forked,
                report=report,
                shared=share is not None,
                append=append,
            )
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
    folder = Path(spec.output.path)
    binding.refuse_files(folder)
    binding.refuse_inside(spec, folder)
    return folder


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
            "  python -m mmdata.build --spec my.yaml --retry transient    redo only what failed transiently\n"
            "  python -m mmdata.build --spec my.yaml --append             the source has grown: add what is new\n\n"
            "exit codes: 0 done; 1 the run failed, what is committed is safe; 2 the spec or the input is wrong; "
            "130 interrupted; 141 done, but nobody read what it had to say."
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
        "--append",
        action="store_true",
        help="build rows that the source has got since (more lines, more files, a higher --limit) as further shards; "
        "what is there is not rewritten",
    )
    parser.add_argument(
        "--worker", metavar="I/N", help="do every n-th unit only, from 0/N to N-1/N on as many machines (SLURM arrays)"
    )
    parser.add_argument("--finish", action="store_true", help="commit what all workers have done, in order")
    parser.add_argument("--push", metavar="URL", help="then copy it to any place that fsspec knows; again to go on")
    parser.add_argument("--push-replace", action="store_true", help="also where another dataset lies")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the summary")
    return parser


def _apart(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the flags together: of two one would have to be left out of account."""
    for one, other in _APART:
        if getattr(arguments, one) and getattr(arguments, other):
            return f"--{one} and --{other}: one after the other"
    if arguments.push_replace and not arguments.push:
        return "--push-replace says what --push may do: name its URL, too"
    return None


@unread.goes_on
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    overrides = list(arguments.set)
    if arguments.output:
        output = arguments.output if "://" in arguments.output else str(Path(arguments.output).absolute())
        overrides.append(f"output.path={json.dumps(output)}")
    if arguments.limit is not None:
        overrides.append(f"limit={arguments.limit}")
    sent: int | None = None
    if wrong := _apart(arguments):
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    try:
        spec, _ = specfile.load_build(arguments.spec, overrides)
        if arguments.dry_run:
            print(dry_run(spec, _folder(spec)))
            return 0
        if not spec.plugins:
            startup.spare_pandas()
        if arguments.worker is not None:
            build_share(spec, arguments.worker, append=arguments.append, quiet=arguments.quiet)
            print(f"worker {arguments.worker} has done its units; when all have: --finish")
            return 0
        task: Task = "retry" if arguments.retry else "finish" if arguments.finish else "build"
        with (
            ahead.Reporter() as reporter,
            _opened(spec, reporter.make, quiet=arguments.quiet, append=arguments.append) as job,
        ):
            manifest = job.do(task)
        if arguments.push:
            from mmdata.outputs.push import push_dataset  # fsspec's stores take their time

            sent = push_dataset(_folder(spec), arguments.push, replace=arguments.push_replace)
    except (SpecError, DataError) as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
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
    os._exit(main())  # everything is on disk; taking the interpreter apart would only cost 0.2 s
