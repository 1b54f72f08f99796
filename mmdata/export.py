"""`python -m mmdata.export DATASET --to FORM`: a finished dataset as Parquet, MDS, or with Energon's metadata."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from rich.console import Console
from rich.progress import Progress

from mmdata import pointer, unread
from mmdata.errors import DataError, RunError, SpecError
from mmdata.folders import dataset_folder
from mmdata.outputs import card, energon, mds, parquet
from mmdata.outputs.push import push
from mmdata.shards.dataset import Dataset, open_dataset

Form = Literal["parquet", "mds", "energon"]
LAST: dict[Form, str] = {"parquet": "README.md", "mds": "index.json", "energon": "manifest.json"}
"""The file that is written last, without which a folder is no dataset of that form."""


def export(
    dataset: Path, to: Form, output: Path | None = None, *, split_by: str | None = None, quiet: bool = True
) -> Path:
    """Write a finished dataset in another form; samples removed by tombstones are left out. Returns the folder.

    `parquet` (`mmdata.outputs.parquet`) and `mds` (`mmdata.outputs.mds`) make a new folder `output`, which has its name
    only once it is whole; `energon` (`mmdata.outputs.energon`) adds files to the dataset's own folder and takes none.
    `split_by` is for `parquet`.

    Raises SpecError for what does not go together or an `output` that exists, DataError for a damaged dataset, RunError
    where a file cannot be written.
    """
    opened = open_dataset(dataset)
    if to == "energon":
        if output is not None or split_by is not None:
            raise SpecError("--to energon adds to the dataset's own folder; it takes no --output and no --split-by")
        with _progress(len(opened), quiet) as told, _writable(opened.path):
            energon.write(opened, told=told)
        return opened.path
    if output is None:
        raise SpecError(f"--to {to} needs --output FOLDER")
    if to == "mds" and split_by is not None:
        raise SpecError("--split-by is for --to parquet")
    if output.exists():
        raise SpecError(f"--output {output}: exists; remove it or name another")
    positions = np.setdiff1d(np.arange(len(opened)), opened.masked())
    writing = output.with_name(f".{output.name}.{os.getpid()}.writing")
    with _writable(output), _progress(len(positions), quiet) as told:
        try:
            writing.mkdir(parents=True)
            _write(opened, to, writing, positions, split_by, told)
            writing.rename(output)
        finally:
            shutil.rmtree(writing, ignore_errors=True)
    return output


def _write(
    dataset: Dataset, to: Form, folder: Path, positions: np.ndarray, split_by: str | None, told: Callable[[int], None]
) -> None:
    if to == "mds":
        mds.write(dataset, positions, folder, told=told)
        return
    splits = parquet.write(dataset, positions, folder, split_by=split_by, told=told)
    (folder / "README.md").write_text(card.render(dataset.manifest, samples=len(positions), splits=splits))


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or folder}: cannot write: {error.strerror or error}") from error


@contextlib.contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as progress:
        task = progress.add_task("samples", total=total)
        yield lambda count: progress.advance(task, count)


@unread.goes_on
def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 1 or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.export",
        description=(__doc__ or "").split(": ", 1)[1],
        epilog="parquet: datasets.load_dataset(FOLDER); mds: streaming.StreamingDataset(local=FOLDER);"
        "\nenergon: .nv-meta and .tar.idx files in the dataset itself, as `energon prepare` makes them."
        "\nexit codes: 0 done; 1 cannot write; 2 a mistake or a damaged dataset.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=dataset_folder, help="folder of a finished dataset")
    parser.add_argument("--to", choices=get_args(Form), required=True, help="the form")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="a new folder (not for energon)")
    parser.add_argument("--split-by", metavar="FIELD", help="parquet: the field of meta that names a sample's split")
    parser.add_argument(
        "--push", metavar="URL", help="copy the result to any place that fsspec knows, whole or not at all"
    )
    parser.add_argument("--push-replace", action="store_true", help="also where another dataset lies")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(argv)
    try:
        folder = export(options.dataset, options.to, options.output, split_by=options.split_by, quiet=options.quiet)
        print(f"{folder}: {options.to}")
        if options.push:
            digest = open_dataset(options.dataset).manifest.root_digest
            total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            with _progress(total, options.quiet) as told:
                sent = push(
                    folder, options.push, digest=digest, last=LAST[options.to], told=told, replace=options.push_replace
                )
            print(f"{options.push}: {sent} files sent")
    except (DataError, SpecError) as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
