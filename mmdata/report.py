"""`python -m mmdata.report DATASET [--output FILE]`: count a finished dataset again and write its report."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdata import pointer
from mmdata.errors import DataError, RunError
from mmdata.report_page.page import render
from mmdata.shards import manifest as manifests
from mmdata.shards.dataset import open_dataset
from mmdata.shards.storage import write_atomic
from mmdata.stats import compute

__all__ = ["main", "render", "report"]

NAME = "report.html"


def report(dataset: Path, output: Path | None = None) -> Path:
    """Write the report of a finished dataset and return where: `output`, or report.html in the dataset.

    In the dataset it replaces the report and its sha256 in the manifest, whose root digest stays the same.
    Raises DataError where the dataset is unfinished or damaged, RunError where the file cannot be written.
    """
    manifest = open_dataset(dataset).manifest
    target = dataset / NAME if output is None else output
    inside = target.resolve() == (dataset / NAME).resolve()
    if not inside and target.resolve().is_relative_to(dataset.resolve()):
        raise RunError(f"{target}: inside a dataset only {NAME} may be written")
    page = render(dataset, manifest, compute(dataset, manifest, _run(dataset)))
    try:
        write_atomic(target, page)
        if inside:
            files = {**manifest.files, NAME: hashlib.sha256(page).hexdigest()}
            manifests.rewrite(dataset, manifest.model_copy(update={"files": files}))
    except OSError as error:
        raise RunError(f"{target}: cannot write: {error.strerror}") from error
    return target


def _run(dataset: Path) -> dict[str, Any]:
    """How the build went, as its stats.json tells; nothing where there is none. Raises DataError for damage."""
    path = dataset / "stats.json"
    try:
        run = json.loads(path.read_bytes()).get("run", {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError("stats_damaged", f"{path}: {error}") from error
    if not isinstance(run, dict):
        raise DataError("stats_damaged", f"{path}: `run` is not an object")
    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m mmdata.report", description=__doc__.split(": ", 1)[1])
    parser.add_argument("dataset", type=Path, help="folder of a finished dataset")
    parser.add_argument("--output", type=Path, help=f"file to write (default: {NAME} in the dataset)")
    options = parser.parse_args(arguments)
    try:
        print(report(options.dataset, options.output))
    except (DataError, RunError, OSError) as error:
        print(f"mmdata.report: {pointer.told(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
