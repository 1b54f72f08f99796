"""Indexing tars that another has written: `python -m mmdata.index` beside `energon prepare`, whole commands.

`python -m benchmarks.indexing [--count 2000] [--rounds 5] [--folder /dev/shm] [--json FILE]`, after
`python -m benchmarks.peers`.
The tars are webdataset's own (a JPEG of 256 pixels, a caption and a JSON object a sample), and each command finds them
as they were. Both are timed with their start-up, in turn, on all of the samples and on a quarter of them: what the
marginal samples cost is the difference. What ours does besides: facts out of every header, sha256 and crc32c of every
part, sha256 of every tar, a ledger, statistics and a report; `energon prepare` counts samples and notes their places.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks._interleaved import Row, machine, summary, write
from benchmarks._shard_writers import tarfile
from benchmarks.build_vs_img2dataset import timed
from benchmarks.peers import PEERS, missing
from benchmarks.shard_writing import prepare

PICTURES = 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where all lies (default: /dev/shm)")
    parser.add_argument("--json", type=Path, help="write the figures here, not into benchmarks/results")
    arguments = parser.parse_args()
    reason = missing(["energon"])["energon"]
    lacking = {} if reason is None else {"energon": reason}
    fewer = arguments.count // 4
    found: dict[str, list[Row]] = {}
    before = machine()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        root = Path(temporary)
        prepare(root, PICTURES)
        rows = pickle.loads((root / "photos256.pickle").read_bytes())
        for count in (arguments.count, fewer):
            (root / f"tars{count}").mkdir()
            many = [(f"{number:09d}", *rows[number % PICTURES][1:]) for number in range(count)]
            tarfile(many, root / f"tars{count}")
        for _ in range(arguments.rounds):
            for count in (arguments.count, fewer):
                found.setdefault(f"mmdata, {count}", []).append(ours(root, count))
                if not lacking:
                    found.setdefault(f"energon, {count}", []).append(theirs(root, count))
    for name, each in found.items():
        wall, cpu = summary(each, "wall"), summary(each, "cpu")
        print(
            f"{name:16} {wall[0]:7.2f} s ({wall[1]:.2f}-{wall[2]:.2f})  {cpu[0]:7.2f} s CPU ({cpu[1]:.2f}-{cpu[2]:.2f})"
        )
    ratios = {}
    if not lacking:
        for key in ("wall", "cpu"):
            middle = {name: summary(each, key)[0] for name, each in found.items()}
            mine, other = (
                (middle[f"{name}, {arguments.count}"], middle[f"{name}, {fewer}"]) for name in ("mmdata", "energon")
            )
            ratios[key] = {"whole": other[0] / mine[0], "marginal": (other[0] - other[1]) / (mine[0] - mine[1])}
            print(f"ratio of {key}: {ratios[key]['whole']:.1f} whole, {ratios[key]['marginal']:.1f} without start-up")
    for name, why in lacking.items():
        print(f"{name}: MISSING: {why}")
    told = {"count": arguments.count, "fewer": fewer, "folder": str(arguments.folder), "ratios": ratios}
    told |= {"threads": os.cpu_count(), "machine": [before, machine()]}
    print(write("indexing", found, lacking, to=arguments.json, **told))
    return 1 if lacking else 0


def ours(root: Path, count: int) -> Row:
    output = root / "ours"
    shutil.rmtree(output, ignore_errors=True)
    return timed([sys.executable, "-m", "mmdata.index", str(root / f"tars{count}"), "--output", str(output), "--quiet"])


def theirs(root: Path, count: int) -> Row:
    """On a copy of links, since it writes beside the tars."""
    folder = root / "theirs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for tar in (root / f"tars{count}").iterdir():
        os.link(tar, folder / tar.name)
    energon = str(PEERS["energon"].python.with_name("energon"))
    options = ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CaptioningSample"]
    return timed([energon, "prepare", str(folder), *options])


if __name__ == "__main__":
    sys.exit(main())
