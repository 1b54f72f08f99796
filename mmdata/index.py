"""`python -m mmdata.index`: adopt others' tars, or tables of media, as a dataset, without rewriting them."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmdata import startup, unread

if __name__ == "__main__":
    gc.disable()  # importing makes much that stays
    startup.spare_threads()  # before numpy comes
    startup.spare_drivers()

from mmdata import __version__, pointer, settings
from mmdata.collector import paused
from mmdata.engine import adopt, commit
from mmdata.engine.adopt import Digest, Unit
from mmdata.errors import DataError, RunError, SpecError
from mmdata.progress import Progress
from mmdata.shards import manifest as manifests
from mmdata.shards.access import is_table, local_path, open_source
from mmdata.shards.index import Index
from mmdata.shards.manifest import Manifest
from mmdata.shards.storage import sha256_file, write_atomic
from mmdata.sources._naming import ROLES, Naming
from mmdata.sources._shard_files import ShardFile, shard_files

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from mmdata.report_page.ahead import Reporter


def index_tars(
    sources: Sequence[str],
    output: Path,
    *,
    split: str = "train",
    verify: Literal["full", "header"] = "header",
    naming: Naming = Naming(),  # noqa: B008 frozen
    quiet: bool = False,
    digest: Digest = "crc32c",
    report: bool = True,
) -> Manifest:
    """Make a dataset in `output` of tars or tables that stay where they are, or go on where a run was stopped.
    `naming` says what the columns of tables are, `digest` whether the sha256 of each medium is kept, too, or no
    sum of parts, rows and tars at all. Without `report` there is neither stats.json nor report.html.

    Raises SpecError for sources that name no tar, or others than those that `output` was begun with; DataError for a
    damaged dataset; RunError when the storage fails or `output` cannot be written.
    """
    tars = [tar for source in sources for tar in shard_files(source, split)]
    if twice := sorted({tar.uri for tar in tars if sum(tar.uri == other.uri for other in tars) > 1}):
        raise SpecError(f"{twice[0]}: named twice")
    stems = [Path(tar.uri.partition("?")[0]).stem for tar in tars if is_table(tar.uri) and not naming.key]
    if same := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise SpecError(
            f"two tables named {same[0]}: rows are named after their file; index them apart, rename one, or"
            " give a --key-column"
        )
    try:
        commit.prepare(output)
        with open(output / ".build" / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{output}: another run is writing to this dataset") from None
            with _reporter() if report else contextlib.nullcontext() as reporter:
                return _index(tars, output, split, verify, naming, digest, reporter, quiet)
    except OSError as error:
        raise RunError(f"{getattr(error, 'filename', None) or output}: {error.strerror or error}") from error


def _index(
    tars: list[ShardFile],
    output: Path,
    split: str,
    verify: Literal["full", "header"],
    naming: Naming,
    digest: Digest,
    reporter: Reporter | None,
    quiet: bool,
) -> Manifest:
    names = [_name(tar.uri, output) for tar in tars]
    told = {"columns": naming.given()} if naming.given() else {}
    bound: dict[str, Any] = {
        "spec": {"index": {"split": split, "verify": verify, "digest": digest, "version": 2, **told}},
        "inputs": [_input(tar, name) for tar, name in zip(tars, names, strict=True)],
        "plugins": {},
    }
    _bind(output, bound)
    committed = commit.roll_forward(output)
    records = list(commit.records(output)) if committed else []
    if (output / "manifest.json").exists():
        return manifests.read(output)
    keys: dict[str, str] = {}
    for entry in committed:
        if entry.index is not None:
            found = Index(output / entry.index, crc32c=entry.index_crc32c).keys()
            keys.update(dict.fromkeys(found, entry.shard or ""))
    first = sum(entry.input_rows for entry in committed)
    threads = verify == "full" or any(is_table(tar.uri) for tar in tars)
    with Progress(total=None, quiet=quiet) as progress, _pool() if threads else contextlib.nullcontext() as pool:
        for number in range(len(committed), len(tars)):
            tar = tars[number]
            unit = Unit(
                number=number,
                uri=tar.uri,
                name=names[number],
                input_first=first,
                excluded=tar.excluded,
                fields=tar.fields,
            )
            if is_table(tar.uri):
                from mmdata.engine.adopt_rows import adopt_rows  # with what looks at every medium

                assert pool is not None
                entry, fates = adopt_rows(
                    output, unit, verify=verify, keys=keys, pool=pool, naming=naming, digest=digest
                )
            else:
                with paused():
                    entry, fates = adopt.adopt(output, unit, verify=verify, keys=keys, pool=pool, digest=digest)
            records.append(commit.record_ends(output, entry, fates.ends))
            commit.publish(output, entry)
            first += entry.input_rows
            for (state, reason), count in fates.ends.items():
                progress.update(state, reason, count)
            progress.commit(number, entry.rows)
    return _finish(output, bound, records, reporter)


def _pool() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # headers are read without

    return ThreadPoolExecutor(os.cpu_count())


def _reporter() -> Reporter:
    from mmdata.report_page.ahead import Reporter  # without a report nothing of it is loaded

    return Reporter()


def _input(tar: ShardFile, name: str) -> dict[str, Any]:
    told: dict[str, Any] = {"name": name, "size": _size(tar.uri)}
    if tar.excluded:
        told["excluded"] = sorted(tar.excluded)
    if tar.fields is not None:
        told["fields"] = {field: [list(place) for place in places] for field, places in tar.fields.fields}
    return told


def _finish(
    output: Path, bound: dict[str, Any], records: list[commit.CommitRecord], reporter: Reporter | None
) -> Manifest:
    counts, reasons = commit.sums(records)
    first, entries = 0, []
    for record in records:
        entries.append(replace(record.entry, first=first))
        first += record.entry.rows
    manifest = Manifest(
        created_by=f"mmdata {__version__}",
        spec=bound["spec"],
        spec_digest=settings.digest(bound["spec"]),
        inputs=bound["inputs"],
        input_rows=sum(entry.input_rows for entry in entries),
        samples=first,
        counts=counts,
        reasons=reasons,
        shards=entries,
        root_digest=manifests.root_digest(entries),
    )
    if reporter is None:
        return manifests.write(output, manifest)
    figures, page = reporter.make(output, manifest, {}, seed=0)
    write_atomic(output / "stats.json", (json.dumps(figures, indent=1, sort_keys=True) + "\n").encode())
    write_atomic(output / "report.html", page)
    files = {name: sha256_file(output / name) for name in ("stats.json", "report.html")}
    return manifests.write(output, replace(manifest, files=files))


def _bind(output: Path, bound: dict[str, Any]) -> None:
    path = output / ".build" / "build.json"
    if not path.exists():
        if (output / "manifest.json").exists():
            raise SpecError(f"{output} holds a dataset already; index to another --output")
        write_atomic(path, commit.canonical(bound))
        return
    changes = list(settings.difference(manifests.read_json(path), bound))
    if changes:
        listed = "\n".join(f"  {change}" for change in changes)
        raise SpecError(f"{output} was begun with other files or options; use another --output, or undo:\n{listed}")


def _name(uri: str, output: Path) -> str:
    """How the dataset names a tar: relative if it lies below it, else its absolute path or URL."""
    local = local_path(uri)
    if local is None:
        return uri
    path, below = Path(local).resolve(), output.resolve()
    return path.relative_to(below).as_posix() if path.is_relative_to(below) else str(path)


def _size(uri: str) -> int:
    try:
        source = open_source(uri)
    except DataError as error:
        raise SpecError(str(error)) from error
    size = source.size
    source.close()
    return size


@unread.goes_on
def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 1 or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.index",
        description="Adopt WebDataset tars, or Parquet and Arrow files with media inside, as a dataset: an index and a "
        "manifest, the files as they are.",
        epilog="examples:\n"
        "  python -m mmdata.index 'data/cc3m-{00000..00331}.tar' --output data/cc3m\n"
        "  python -m mmdata.index energon_folder --split train --output data/train\n"
        "  python -m mmdata.index 'data/train-*.parquet' --output data/train\n"
        "  python -m mmdata.index 's3://bucket/laion/*.tar' --output data/laion --verify full\n"
        "  python -m mmdata.index qa.parquet --text-column ask:user --text-column say:assistant --output data/qa\n\n"
        "What columns hold is told by the options, else by the schema as `datasets` writes it (Image, Audio, Video,\n"
        "and lists of them), else by names: image(s), audio(s), video(s), text, caption, messages, conversations,\n"
        "texts.\n"
        "Of an Energon folder, .nv-meta/split.yaml and the field_map of .nv-meta/dataset.yaml are honoured.\n"
        "Run it again after a kill: it goes on after the last whole file.\n"
        "exit codes: 0 done; 1 the run failed, run it again; 2 the sources or the output are wrong.",
        formatter_class=startup.formatter,
    )
    parser.add_argument(
        "source", nargs="+", help="tars or tables: paths, globs, {000..999}, URLs, folders, Energon folders"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the dataset to make")
    parser.add_argument("--split", default="train", help="of Energon folders (default: train)")
    parser.add_argument(
        "--verify",
        choices=("header", "full"),
        default="header",
        help="header: facts from headers; full: decode every medium (default: header)",
    )
    parser.add_argument(
        "--digest",
        choices=("crc32c", "sha256", "none"),
        default="crc32c",
        help="of each medium: crc32c, or sha256 as well, which `exact_dedup` and `mmdata.diff` compare without reading "
        "the media again, and which halves the speed; of each tar sha256, too. none: no sums of media, rows and tars, "
        "little more is read than headers, and nobody can tell later whether a byte has changed (default: crc32c)",
    )
    parser.add_argument(
        "--no-report",
        action="store_true",
        help="no stats.json and report.html; python -m mmdata.report makes the latter later",
    )
    columns = parser.add_argument_group("columns of tables", "each may be given several times, but for the last two")
    for kind in ("image", "audio", "video"):
        columns.add_argument(f"--{kind}-column", action="append", default=[], metavar="NAME", help=f"holds {kind}s")
    columns.add_argument(
        "--text-column",
        action="append",
        default=[],
        metavar="NAME[:ROLE]",
        help=f"a text, in the order of tokens; roles: {', '.join(ROLES)} (default: caption)",
    )
    columns.add_argument("--conversations-column", metavar="NAME", help="holds lists of messages")
    columns.add_argument("--key-column", metavar="NAME", help="holds the keys (default: name of the file and row)")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the summary")
    options = parser.parse_args(argv)
    try:
        manifest = index_tars(
            options.source,
            options.output,
            split=options.split,
            verify=options.verify,
            naming=Naming(
                image=tuple(options.image_column),
                audio=tuple(options.audio_column),
                video=tuple(options.video_column),
                text=tuple(options.text_column),
                conversations=options.conversations_column,
                key=options.key_column,
            ),
            quiet=options.quiet,
            digest=options.digest,
            report=not options.no_report,
        )
    except (SpecError, DataError) as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
        return 1
    states = " + ".join(f"{count:,} {state}" for state, count in manifest.counts.items() if count)
    reasons = json.dumps({reason: n for found in manifest.reasons.values() for reason, n in found.items()})
    shards = manifest.table.shards if manifest.table else 0
    print(f"{manifest.input_rows:,} samples found = {states}" + (f" {reasons}" if manifest.reasons else ""))
    if not options.no_report:
        print(f"report: {options.output / 'report.html'}")
    print(f"{manifest.samples:,} samples in {shards} shards, root digest {manifest.root_digest[:16]}")
    return 0


if __name__ == "__main__":
    startup.spare_pandas()
    startup.keep_memory()
    gc.freeze()
    gc.enable()
    os._exit(main())  # everything is on disk; taking the interpreter apart takes a tenth of a short run
