"""Memory of a stream over epochs: what the process holds after each, and what a sample costs in few and many shards.

`python -m benchmarks.stream_memory [--count 20000] [--shards 10 1000] [--epochs 5]`. Samples of 2 KB through the stream
in its global order and through `Dataset.iter_raw`, each in a fresh process: the same samples in few and in many shards;
and shards that all have `LARGE` samples (of 400 bytes, since not their bytes count), few and many of them, in the
global order. `growth` is of resident memory from the end
of the second epoch to the end of the last: the first fills what is kept, the second the allocator's arenas.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import _options
from benchmarks._interleaved import Row
from benchmarks._raw_data import write_raw
from benchmarks._startup_contenders import resident
from benchmarks.claims import figure, write

LARGE = 1000


def opened(way: str, folder: str) -> Callable[[], int]:
    """What makes one pass over all samples and says how many there were."""
    from mmdata import StreamingDataset, open_dataset

    if way == "stream":
        stream = StreamingDataset(folder, yields="bytes")
        return lambda: sum(1 for _ in stream)
    dataset = open_dataset(folder)
    return lambda: sum(1 for _ in dataset.iter_raw(range(len(dataset))))


def passes(way: str, folder: str, epochs: int) -> list[Row]:
    """MB held after each epoch, and CPU microseconds of each sample in it."""
    rows: list[Row] = []
    epoch = opened(way, folder)
    for _ in range(epochs):
        used = time.process_time()
        count = epoch()
        rows.append({"mb": resident(), "cpu_us": 1e6 * (time.process_time() - used) / count})
    return rows


def fresh(way: str, folder: Path, epochs: int) -> list[Row]:
    """`passes` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.stream_memory", "--epochs", str(epochs), "--way", way, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows: list[Row] = json.loads(done.stdout)
    return rows


def main() -> int:
    parser = _options.parser(__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--way", nargs=2, metavar=("WAY", "FOLDER"), help="do the passes of one row in this process")
    _options.add_ours(parser)
    arguments = _options.parse(parser, count=4000, shards=[10, 200], epochs=4)
    if arguments.way:
        way, folder = arguments.way
        print(json.dumps(passes(way, folder, arguments.epochs)))
        return 0
    found: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for shards in arguments.shards:
            folder = Path(temporary) / f"shards{shards}"
            write_raw(folder, arguments.count, 2 << 10, shards)
            if arguments.ours and shards == max(arguments.shards):
                _options.repeat(arguments.ours, [opened("dataset", str(folder))])
                return 0
            for way in ("dataset", "stream"):
                found[f"{way}, {shards} shards"] = fresh(way, folder, arguments.epochs)
        for shards in arguments.shards:
            folder = Path(temporary) / f"large{shards}"
            write_raw(folder, LARGE * shards, 400, shards)
            found[f"stream, {shards} shards of {LARGE:,}"] = fresh("stream", folder, arguments.epochs)
    print(f"{arguments.count} samples of 2 KB, {arguments.epochs} epochs")
    print(f"{'':32}{'MB after each epoch':>{8 * arguments.epochs}}{'growth':>9}{'us a sample (least)':>22}")
    for name, rows in found.items():
        held = "".join(f"{row['mb']:8.1f}" for row in rows)
        growth = rows[-1]["mb"] - rows[min(1, len(rows) - 1)]["mb"]
        print(f"{name:32}{held}{growth:9.1f}{min(row['cpu_us'] for row in rows):22.1f}")
    claims = []
    for name, rows in found.items():
        more = {"goal": 2.0, "at_most": True, "headline": name == f"stream, {max(arguments.shards)} shards"}
        grown = [rows[-1]["mb"] - rows[min(1, len(rows) - 1)]["mb"]]
        claims.append(figure(f"growth of memory, epochs 2 to {len(rows)}, {name}", "mmdata", grown, "MB", **more))
    for way, of in (("dataset", ""), ("stream", ""), ("stream", f" of {LARGE:,}")):
        few, many = (found[f"{way}, {shards} shards{of}"] for shards in (min(arguments.shards), max(arguments.shards)))
        cost = [b["cpu_us"] / a["cpu_us"] for a, b in zip(few, many, strict=True)]
        what = f"CPU time of a sample, {max(arguments.shards):,} shards{of} over {min(arguments.shards):,}, {way}"
        claims.append(figure(what, "mmdata", cost, "times", goal=1.5, at_most=True))
    write("stream_memory", claims, figures=found, to=arguments.json, count=arguments.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
