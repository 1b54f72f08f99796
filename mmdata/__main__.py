"""`python -m mmdata`: the list of commands."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "build": "raw sources to a verified dataset; resumes, retries, accounts for every record",
    "verify": "prove that every byte of a dataset is the one that was built",
    "report": "render a dataset's report.html",
    "explain": "say which samples are in which step, from which rows, and show a pack",
    "diff": "compare two builds: records added, gone, with another fate or other bytes",
    "export": "a dataset as Parquet for datasets, MDS for Streaming, or with Energon's metadata",
    "forget": "remove samples from a finished dataset by tombstones, without rewriting it",
    "compact": "write a dataset again without removed samples, small shards put together",
    "index": "adopt WebDataset and Energon tars as a dataset, without rewriting them",
    "schemas": "write or check the JSON Schemas of specs and files",
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        command = importlib.import_module(f"mmdata.{arguments[0]}")
        return int(command.main(arguments[1:]))
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="python -m mmdata",
        description="Multimodal data: build, verify, look.",
        epilog="commands (each also `python -m mmdata.NAME`, each with --help):\n"
        + "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=[*COMMANDS], metavar="COMMAND")
    parser.parse_args(arguments or ["--help"])
    return 2


if __name__ == "__main__":
    sys.exit(main())
