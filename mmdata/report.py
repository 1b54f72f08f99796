"""`python -m mmdata.report DATASET`: count a finished dataset again and write its report, or a page of two datasets."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmdata import pointer, unread
from mmdata.diff import IDENTITY, By
from mmdata.errors import DataError, RunError, SpecError
from mmdata.folders import dataset_folder
from mmdata.report_page.page import render
from mmdata.shards import manifest as manifests
from mmdata.shards.dataset import open_dataset
from mmdata.shards.storage import write_atomic
from mmdata.stats import compute

__all__ = ["compare", "main", "render", "report"]

NAME = "report.html"


def report(
    dataset: Path,
    output: Path | None = None,
    *,
    tokenizer: str | None = None,
    families: Sequence[str] = (),
    template: str | None = None,
) -> Path:
    """Write the report of a finished dataset and return where: `output`, or report.html in the dataset.

    With a `tokenizer` (a folder) and model families it shows how long whole samples are in tokens, as a stream with
    this template makes them; without, what media alone come to. In the dataset it replaces the report and its sha256 in
    the manifest, whose root digest stays the same.
    Raises DataError where the dataset is unfinished or damaged, RunError where the file cannot be written, SpecError
    for a family, tokenizer or template that cannot be used.
    """
    if bool(families) != (tokenizer is not None):
        raise SpecError("families and a tokenizer belong together; give --family NAME and --tokenizer FOLDER")
    manifest = open_dataset(dataset).manifest
    target = dataset / NAME if output is None else output
    inside = target.resolve() == (dataset / NAME).resolve()
    if not inside and target.resolve().is_relative_to(dataset.resolve()):
        raise RunError(f"{target}: inside a dataset only {NAME} may be written")
    lengths = {
        f"{family} with {Path(tokenizer).name}": _lengths(dataset, family, tokenizer, template)
        for family in families
        if tokenizer is not None
    }
    page = render(dataset, manifest, compute(dataset, manifest, _run(dataset)), lengths=lengths)
    try:
        write_atomic(target, page)
        if inside:
            files = {**manifest.files, NAME: hashlib.sha256(page).hexdigest()}
            manifests.rewrite(dataset, replace(manifest, files=files))
    except OSError as error:
        raise RunError(f"{target}: cannot write: {error.strerror}") from error
    return target


def compare(a: Path, b: Path, output: Path, *, by: By = "origin") -> Path:
    """Write a page that compares two finished datasets: counts, what moved, examples, distributions over each other.

    `by` says which records are the same in both (`mmdata.diff`). Raises as `report` does."""
    from mmdata.report_page.compare import render as rendered
    from mmdata.report_page.compare import side

    for folder in (a, b):
        if output.resolve().is_relative_to(folder.resolve()):
            raise RunError(f"{output}: write the comparison outside of the datasets")
    page = rendered(*(side(folder, compute(folder, open_dataset(folder).manifest, {})) for folder in (a, b)), by=by)
    try:
        write_atomic(output, page)
    except OSError as error:
        raise RunError(f"{output}: cannot write: {error.strerror}") from error
    return output


def _lengths(dataset: Path, family: str, tokenizer: str, template: str | None) -> dict[str, Any]:
    """How long whole samples are, in tokens of a family. Raises SpecError where there is no such thing."""
    from mmdata.stats_tokens import sample_tokens
    from mmdata.stream.arguments import stream_family, stream_template
    from mmdata.stream.spec import StreamSpec

    made = stream_family(family, tokenizer)
    assert made is not None, family
    opened = open_dataset(dataset)
    seed = int((opened.manifest.spec.get("output") or {}).get("seed", 0))
    spec = StreamSpec(dataset=str(dataset), **({} if template is None else {"template": template}))
    return sample_tokens(opened, made, stream_template(None, spec, made), seed)


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


@unread.goes_on
def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.report",
        description=__doc__.split(": ", 1)[1],
        epilog="Lengths in tokens are counted over 1,000 random samples. Without a tokenizer the page shows what media "
        "alone come to in a few families. exit codes: 0 written; 2 trouble, in one line on stderr.",
    )
    parser.add_argument("dataset", type=dataset_folder, help="folder of a finished dataset")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"file to write (default: {NAME} in the dataset)")
    parser.add_argument(
        "--against",
        type=dataset_folder,
        metavar="OTHER",
        help="write a page that compares the dataset (A) with another (B)",
    )
    parser.add_argument(
        "--by", choices=tuple(IDENTITY), help="with --against: what makes a record the same in both (default: origin)"
    )
    parser.add_argument("--tokenizer", metavar="FOLDER", help="show lengths of whole samples in its tokens")
    parser.add_argument("--family", action="append", default=[], help="model family for that; may be repeated")
    parser.add_argument(
        "--template", help="how samples become tokens (default: the tokenizer's chat template, or plain)"
    )
    options = parser.parse_args(arguments)
    try:
        print(_written(options))
    except (SpecError, DataError, RunError, OSError) as error:
        print(f"mmdata.report: {pointer.told(error)}", file=sys.stderr)
        return 2
    return 0


def _written(options: argparse.Namespace) -> Path:
    if options.against is None:
        if options.by is not None:
            raise SpecError("--by: says how records of two datasets are compared; give --against OTHER")
        return report(
            options.dataset,
            options.output,
            tokenizer=options.tokenizer,
            families=options.family,
            template=options.template,
        )
    if options.tokenizer is not None or options.family or options.template is not None:
        raise SpecError("--against: compares tokens of media alone; leave --tokenizer, --family and --template out")
    if options.output is None:
        raise SpecError("--against: name the page to write: --output FILE")
    return compare(options.dataset, options.against, options.output, by=options.by or "origin")


if __name__ == "__main__":
    sys.exit(main())
