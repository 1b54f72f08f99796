"""`python -m mmdata`: the list of commands."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence

from mmdata import unread

COMMANDS = {
    "init": "write a commented spec to begin with, of a pipeline or a kind of source",
    "build": "raw sources to a verified dataset; resumes, retries, accounts for every record",
    "verify": "prove that every byte of a dataset is the one that was built",
    "report": "render a dataset's report.html",
    "explain": "say which samples are in which step, from which rows, and show a pack",
    "replay": "stream the packs of some steps once more, bit for bit, and compare them with a log",
    "simulate": "a stream at 10^9 samples and thousands of ranks: planned for real, read and failing on paper",
    "diff": "compare two builds: records added, gone, with another fate or other bytes",
    "export": "a dataset as Parquet for datasets, MDS for Streaming, or with Energon's metadata",
    "forget": "remove samples from a finished dataset by tombstones, without rewriting it",
    "compact": "write a dataset again without its removed samples, its small shards as fewer",
    "index": "adopt WebDataset and Energon tars, Parquet and Arrow as a dataset, without rewriting them",
    "schemas": "write or check the JSON Schemas of specs and files",
    "doctor": "check this environment: packages, decoders, stores, limits; say what to install",
    "completion": "write what a shell needs to complete these commands and their options",
}


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    return dispatch("mmdata", "Multimodal data: build, verify, look.", COMMANDS, argv)


def dispatch(package: str, about: str, commands: Mapping[str, str], argv: Sequence[str] | None = None) -> int:
    """Run the command of `package` that the first argument names, with the others; without one, list them all.
    Answers its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in commands:
        command = importlib.import_module(f"{package}.{arguments[0]}")
        return int(command.main(arguments[1:]))
    width = max(map(len, commands))
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}",
        description=about,
        epilog=f"commands (each also `python -m {package}.NAME`, each with --help):\n"
        + "\n".join(f"  {name:<{width}}  {text}" for name, text in commands.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=[*commands], metavar="COMMAND")
    parser.parse_args(arguments or ["--help"])
    return 2


if __name__ == "__main__":
    sys.exit(main())
