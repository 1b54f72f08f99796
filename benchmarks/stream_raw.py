"""Bytes of samples from tar shards, nothing decoded, one thread: against the peers' readers and the page cache.

`python -m benchmarks.stream_raw [--count 2000] [--kilobytes 310] [--rounds 7]`, after `python -m benchmarks.peers`.
The shards are plain WebDataset tars of random bytes with a small text each; all read the same ones, from the page
cache, each in a process of its own, in turn. Rates are of CPU and of wall time; ratios are of the same round. The floor
reads whole files into one buffer, headers and padding too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks._interleaved import Contender, ratio, rounds, summary, write
from benchmarks._raw_contenders import READERS
from benchmarks._raw_data import write_raw
from benchmarks.peers import PEERS, missing

SCRIPT = Path(__file__).parent / "_raw_contenders.py"
FLOOR = "read() into one buffer"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--kilobytes", type=int, default=310)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    lacking = {name: reason for name, reason in missing(set(PEERS).intersection(READERS)).items() if reason}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_raw(root / "dataset", arguments.count, arguments.kilobytes << 10, arguments.shards)
        contenders = {
            name: Contender(
                [
                    str(PEERS[name].python if name in PEERS else sys.executable),
                    *([str(SCRIPT)] if name in PEERS else ["-m", "benchmarks._raw_contenders"]),
                    *(name, folder),
                ],
                root / f"{name.replace(' ', '_')}.log",
            )
            for name in READERS
            if name not in lacking
        }
        try:
            found, failed = rounds(contenders, "", arguments.rounds)
        finally:
            for contender in contenders.values():
                contender.end()
    lacking |= failed
    for rows in found.values():
        for row in rows:
            row["rate"], row["cpu_rate"] = row["bytes"] / row["seconds"] / 1e6, row["bytes"] / row["cpu"] / 1e6
    print(f"{arguments.count} samples of {arguments.kilobytes} KB in {arguments.shards} shards, 1 thread")
    print(f"{'':26}{'MB/s median (min-max)':>30}{'of floor':>10}{'of spdl':>10}{'of floor, CPU':>15}")
    for name, rows in found.items():
        middle, least, most = summary(rows, "rate")
        against = [
            f"{ratio(rows, found[other], key)[0]:.2f}" if other in found else "-"
            for other, key in ((FLOOR, "rate"), ("spdl", "rate"), (FLOOR, "cpu_rate"))
        ]
        figures = f"{middle:9.0f} ({least:.0f}-{most:.0f})"
        print(f"{name:26}{figures:>30}{against[0]:>10}{against[1]:>10}{against[2]:>15}")
    for name, reason in lacking.items():
        print(f"{name}: MISSING: {reason}")
    print(write("stream_raw", found, lacking, count=arguments.count, kilobytes=arguments.kilobytes))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
