"""`python -m mmdata.index`: adopt others' tars, or tables of media, as a dataset, without rewriting them."""

from __future__ import annotations

import argparse
import fcntl
import glob
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import yaml

from mmdata import __version__, specfile
from mmdata.engine import adopt, commit
from mmdata.engine.adopt import Unit
from mmdata.engine.adopt_rows import adopt_rows
from mmdata.errors import DataError, RunError, SpecError
from mmdata.progress import Progress
from mmdata.shards import manifest as manifests
from mmdata.shards.access import local_path, open_source
from mmdata.shards.index import Index
from mmdata.shards.manifest import Manifest
from mmdata.shards.rows import SUFFIXES, is_table
from mmdata.shards.storage import write_atomic

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
Tar = tuple[str, frozenset[int]]
"""A tar and the numbers of its samples to leave out."""


def index_tars(
    sources: Sequence[str],
    output: Path,
    *,
    split: str = "train",
    verify: Literal["full", "header"] = "header",
    quiet: bool = False,
) -> Manifest:
    """Make a dataset in `output` of tars that stay where they are, or go on where a run was stopped.

    Raises SpecError for sources that name no tar, or others than those that `output` was begun with; DataError for a
    damaged dataset; RunError when the storage fails or `output` cannot be written.
    """
    tars = [tar for source in sources for tar in _tars(source, split)]
    if twice := sorted({uri for uri, _ in tars if sum(uri == other for other, _ in tars) > 1}):
        raise SpecError(f"{twice[0]}: named twice")
    stems = [Path(uri.partition("?")[0]).stem for uri, _ in tars if is_table(uri)]
    if same := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise SpecError(f"two tables named {same[0]}: rows are named after their file; index them apart, or rename one")
    try:
        commit.prepare(output)
        with open(output / ".build" / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{output}: another run is writing to this dataset") from None
            return _index(tars, output, split, verify, quiet)
    except OSError as error:
        raise RunError(f"{getattr(error, 'filename', None) or output}: {error.strerror or error}") from error


def _index(tars: list[Tar], output: Path, split: str, verify: Literal["full", "header"], quiet: bool) -> Manifest:
    named = [(uri, _name(uri, output), excluded) for uri, excluded in tars]
    bound: dict[str, Any] = {
        "spec": {"index": {"split": split, "verify": verify, "version": 1}},
        "inputs": [
            {"name": name, "size": _size(uri), **({"excluded": sorted(excluded)} if excluded else {})}
            for uri, name, excluded in named
        ],
        "plugins": {},
    }
    _bind(output, bound)
    committed = commit.roll_forward(output)
    if (output / "manifest.json").exists():
        return manifests.read(output)
    keys: dict[str, str] = {}
    for entry in committed:
        if entry.index is not None:
            found = Index(output / entry.index, crc32c=entry.index_crc32c).keys()
            keys.update(dict.fromkeys(found, entry.shard or ""))
    first = sum(entry.input_rows for entry in committed)
    with Progress(total=None, quiet=quiet) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        for number in range(len(committed), len(named)):
            uri, name, excluded = named[number]
            unit = Unit(number=number, uri=uri, name=name, input_first=first, excluded=excluded)
            take = adopt_rows if is_table(uri) else adopt.adopt
            entry, fates = take(output, unit, verify=verify, keys=keys, pool=pool)
            commit.record(output, entry, fates)
            commit.publish(output, entry)
            first += entry.input_rows
            for fate in fates:
                progress.update(fate.state, fate.reason)
            progress.commit(number, entry.rows)
    return _finish(output, bound)


def _finish(output: Path, bound: dict[str, Any]) -> Manifest:
    records = list(commit.records(output))
    counts, reasons = commit.sums(records)
    first, entries = 0, []
    for record in records:
        entries.append(record.entry.model_copy(update={"first": first}))
        first += record.entry.rows
    return manifests.write(
        output,
        Manifest(
            created_by=f"mmdata {__version__}",
            spec=bound["spec"],
            spec_digest=specfile.digest(bound["spec"]),
            inputs=bound["inputs"],
            input_rows=sum(entry.input_rows for entry in entries),
            samples=first,
            counts=counts,
            reasons=reasons,
            shards=entries,
            root_digest=manifests.root_digest(entries),
        ),
    )


def _bind(output: Path, bound: dict[str, Any]) -> None:
    path = output / ".build" / "build.json"
    if not path.exists():
        if (output / "manifest.json").exists():
            raise SpecError(f"{output} holds a dataset already; index to another --output")
        write_atomic(path, commit.canonical(bound))
        return
    changes = list(specfile.difference(manifests.read_json(path), bound))
    if changes:
        listed = "\n".join(f"  {change}" for change in changes)
        raise SpecError(f"{output} was begun with other tars or options; use another --output, or undo:\n{listed}")


def _tars(source: str, split: str) -> Iterator[Tar]:
    """The tars that a source means, in order: an Energon folder's split, a folder's, a pattern's, or one."""
    local = local_path(source)
    if local is not None and (Path(local) / ".nv-meta").is_dir():
        yield from _energon(Path(local), split)
        return
    found = [uri for pattern in braces(source) for uri in _matching(pattern)]
    if not found:
        raise SpecError(f"{source}: no tar or table there")
    yield from ((uri, frozenset()) for uri in found)


def _matching(pattern: str) -> list[str]:
    local = local_path(pattern)
    if local is not None:
        if os.path.isdir(local):
            files = sorted(path for path in Path(local).rglob("*") if path.suffix in (".tar", *SUFFIXES))
            tars = [path for path in files if path.suffix == ".tar"]
            return [str(path) for path in tars or files]  # tables beside tars tell of them, as img2dataset's do
        return sorted(glob.glob(local, recursive=True))
    if not any(sign in pattern.partition("?")[0] for sign in "*["):
        return [pattern]
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(pattern)
    return sorted(filesystem.unstrip_protocol(name) for name in filesystem.glob(path))


def _energon(folder: Path, split: str) -> Iterator[Tar]:
    """The shards of a split as Energon's `prepare` wrote it down: `.nv-meta/split.yaml`, its exclusions respected."""
    path = folder / ".nv-meta" / "split.yaml"
    try:
        value = yaml.safe_load(path.read_text())
        parts, excludes = value["split_parts"], value.get("exclude") or []
        shards = [name for pattern in parts[split] for name in braces(pattern)]
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}; prepare the folder, or name its tars") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{path}: no split {split!r} in it ({error})") from error
    without: dict[str, set[int]] = {}
    for name in (name for pattern in excludes for name in braces(pattern)):
        shard, slash, number = name.rpartition("/")
        if slash and number.isdigit() and not name.endswith(".tar"):
            without.setdefault(shard, set()).add(int(number))
        else:
            without[name] = {-1}
    for shard in shards:
        if -1 not in without.get(shard, ()):
            yield str(folder / shard), frozenset(without.get(shard, ()))


def braces(pattern: str) -> list[str]:
    """What a pattern with braces stands for, as shells and webdataset expand it.

    >>> braces("a-{000..002}.tar"), braces("{x,y}/{1..2}")
    (['a-000.tar', 'a-001.tar', 'a-002.tar'], ['x/1', 'x/2', 'y/1', 'y/2'])
    """
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    if span := _RANGE.fullmatch(found[1]):
        first, last = int(span[1]), int(span[2])
        step = 1 if last >= first else -1
        options = [f"{number:0{len(span[1])}d}" for number in range(first, last + step, step)]
    else:
        options = found[1].split(",")
    return [name for option in options for name in braces(pattern[: found.start()] + option + pattern[found.end() :])]


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
        "  python -m mmdata.index 's3://bucket/laion/*.tar' --output data/laion --verify full\n\n"
        "Run it again after a kill: it goes on after the last whole tar.\n"
        "exit codes: 0 done; 1 the run failed, run it again; 2 the sources or the output are wrong.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source", nargs="+", help="tars: paths, globs, {000..999}, URLs, folders, Energon folders; local tables"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the dataset to make")
    parser.add_argument("--split", default="train", help="of Energon folders (default: train)")
    parser.add_argument(
        "--verify",
        choices=("header", "full"),
        default="header",
        help="header: facts from headers; full: decode every medium (default: header)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the summary")
    options = parser.parse_args(argv)
    try:
        manifest = index_tars(
            options.source, options.output, split=options.split, verify=options.verify, quiet=options.quiet
        )
    except (SpecError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    states = " + ".join(f"{count:,} {state}" for state, count in manifest.counts.items() if count)
    reasons = json.dumps({reason: n for found in manifest.reasons.values() for reason, n in found.items()})
    shards = manifest.table.shards if manifest.table else 0
    print(f"{manifest.input_rows:,} samples found = {states}" + (f" {reasons}" if manifest.reasons else ""))
    print(f"{manifest.samples:,} samples in {shards} shards, root digest {manifest.root_digest[:16]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
