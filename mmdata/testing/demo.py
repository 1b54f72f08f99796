"""`make demo`: the main job on the embedded example, from raw links to a model that learns, with every number shown.

    python -m mmdata.testing.demo FOLDER

Writes the example (real photographs from installed packages, LAION-style tables, the web's usual damage), serves
it over loopback, builds, retries what failed transiently once the server has recovered, verifies, streams and trains.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmdata import specfile, unread
from mmdata.shards.dataset import open_dataset
from mmdata.testing.accounts import ledger_ends, settle
from mmdata.testing.example import SPEC, Example, make_example
from mmdata.types import Sample

RECORDS = 300
# The example's servers answer on loopback and at once, and some of them never: politeness that protects real
# hosts would only make the demo slow. The picture limit is the one that the example plants a record above.
OVERRIDES = (
    *(f"fetch.{name}={json.dumps(value)}" for name, value in SPEC["fetch"].items()),
    "steps.max_pixels.pixels=4000000",
    "output.unit_rows=100",
)


def run(folder: Path, records: int = RECORDS, *, train: bool = True) -> None:
    """The whole demonstration. Raises SystemExit with the step's name when one fails."""
    started = time.monotonic()
    _title("the embedded example")
    example = make_example(folder / "example", records=records)
    print(f"{records} records under {example.metadata}, as a crawl's metadata would list them")
    dataset = folder / "dataset"
    build = [*_python("mmdata.build"), "--spec", "laion_subset.yaml", "--output", str(dataset)]
    build += [
        argument for override in (f"source.path={example.metadata}", *OVERRIDES) for argument in ("--set", override)
    ]
    with example.serve():
        _title("build")
        _step([*build, "--dry-run"])
        _step(build)
    with example.serve(healed=True):
        _title("the same server an hour later: retry what failed transiently, and only that")
        _step([*build, "--retry", "transient"])
    _title("verify every byte")
    _step([*_python("mmdata.verify"), str(dataset)])
    _title("the ledger against what was planted in the example")
    _compare(example, dataset)
    _title("stream")
    _stream(dataset)
    if train:
        _title("train a tiny vision-language model from nothing")
        config = specfile.find("sft_tiny.yaml")
        _step(
            [
                *_python("mmtrain.sft"),
                *("--config", str(config)),
                *("--set", f"data.dataset={dataset}"),
                *("--set", f"output={folder / 'run'}"),
            ]
        )
    _title("done")
    print(f"{time.monotonic() - started:.0f} s in all. Look at {dataset / 'report.html'}")


def _compare(example: Example, dataset: Path) -> None:
    """Every record must have ended in the state and under the reason that its damage calls for."""
    expected = example.expected()
    account = settle(
        {row["row"]: [(row["healed_state"], row["healed_reason"])] for row in expected},
        ledger_ends(dataset),
        {row["row"]: row["kind"] for row in expected},
    )
    if not account.exact:
        raise SystemExit(f"the ledger is not what was planted: {account}")
    kinds = {row["kind"] for row in expected if row["kind"]}
    print(f"{account.records} records ended as planted; {len(kinds)} kinds of damage, each under its reason")


def _stream(path: Path) -> None:
    from mmdata import StreamingDataset

    dataset = open_dataset(path)
    keys, again = ([s.key for s in StreamingDataset(path, seed=0) if isinstance(s, Sample)] for _ in range(2))
    if keys != again or sorted(keys) != sorted(dataset.keys()):
        raise SystemExit("two passes over the stream differ, or a sample is missing")
    first = dataset[keys[0]]
    print(f"{len(keys)} samples, each once, in the same keyed order twice; the first: {first.key}")
    print(f"  {first.texts[0].text!r}, {first.media[0].width}x{first.media[0].height} {first.media[0].format}")


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _title(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _step(command: list[str]) -> None:
    shown = [part if " " not in part else f"'{part}'" for part in ["python", *command[1:]]]
    print("$ " + " ".join(shown), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(f"{' '.join(command[1:3])} failed with exit code {code}")


@unread.goes_on
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mmdata.testing.demo", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where example, dataset and run are written")
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--no-train", action="store_true", help="stop after the stream")
    arguments = parser.parse_args(argv)
    run(arguments.folder.resolve(), arguments.records, train=not arguments.no_train)
    return 0


if __name__ == "__main__":
    sys.exit(main())
