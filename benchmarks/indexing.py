"""Indexing tars that another has written: `python -m mmdata.index` beside `energon prepare`, whole commands.

`python -m benchmarks.indexing [--count 2000] [--photos 400] [--rounds 5] [--folder /dev/shm] [--json FILE]`, after
`python -m benchmarks.peers`.
The tars hold a JPEG, a caption and a JSON object a sample, and each command finds them as they were: photographs of a
few hundred kilobytes, told in MB/s, and pictures of 256 pixels, told in samples/s. Each command runs in turn with its
start-up ("whole"), on all of the samples and on a quarter of them: what the marginal samples cost is the difference.
What ours does besides: facts out of every header, crc32c of every part and row, sha256 of every tar (in a second
thread) and a ledger; and, in a process beside, statistics and a report ("mmdata"; "mmdata, no report" is with
`--no-report`, and does no less than `energon prepare`, which counts samples and notes their places). sha256 of each
medium is an option (`--digest sha256`).

Measured with 800 photographs (152 MB) and 4,000 small samples, two rounds, on two cores that others kept busy (load
13), so that CPU seconds are the figures to compare: photographs 7.9 s of CPU for energon, 3.0 for ours (2.6 x), 1.7
without a report (4.6 x; 7.9 x by the clock); small 9.0 s, 3.8 (2.4 x), 2.2 (4.1 x; 3.3 x by the clock). Start-up is
7 s of CPU for energon and 1.3 for ours; each more small sample takes 0.61 ms of CPU there and 0.22 here, each more
photograph 1.28 and 0.60, of which sha256 of the tar is a third or more (1 GiB/s on an idle core). So 20 x energon is
not reached. What remains of ours: numpy and pyarrow 0.4 s, pydantic and the models of specs 0.5 s; per small sample,
by share of the profile: walking the tar 40%, names and groups 8%, texts and JSON 18%, the glance at the header and
crc32c 20%, index and ledger 14%. Several tars are indexed one after the other, in one process with a second thread.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._interleaved import Row, machine, summary, write
from benchmarks._shard_writers import tarfile
from benchmarks.build_vs_img2dataset import timed
from benchmarks.peers import PEERS, missing
from benchmarks.shard_writing import prepare

PICTURES = 200
SETS = {"photos": "photos", "small": "photos256"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="samples of 256 pixels (default: 2000)")
    parser.add_argument("--photos", type=int, default=400, help="samples of photographs (default: 400)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where all lies (default: /dev/shm)")
    parser.add_argument("--json", type=Path, help="write the figures here, not into benchmarks/results")
    arguments = parser.parse_args()
    reason = missing(["energon"])["energon"]
    lacking = {} if reason is None else {"energon": reason}
    counts = {"photos": arguments.photos, "small": arguments.count}
    found: dict[str, list[Row]] = {}
    before = machine()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        root = Path(temporary)
        prepare(root, PICTURES)
        sizes = {}
        for kind, file in SETS.items():
            rows = pickle.loads((root / f"{file}.pickle").read_bytes())
            for count in (counts[kind], counts[kind] // 4):
                tars = root / f"{kind}{count}"
                tars.mkdir()
                tarfile([(f"{number:09d}", *rows[number % PICTURES][1:]) for number in range(count)], tars)
                sizes[f"{kind}, {count}"] = sum(path.stat().st_size for path in tars.iterdir())
        for _ in range(arguments.rounds):
            for kind in SETS:
                for count in (counts[kind], counts[kind] // 4):
                    for name, options in OURS.items():
                        found.setdefault(f"{name}: {kind}, {count}", []).append(ours(root, f"{kind}{count}", options))
                    if not lacking:
                        found.setdefault(f"energon: {kind}, {count}", []).append(theirs(root, f"{kind}{count}"))
    for name, each in found.items():
        size, count = sizes[name.partition(": ")[2]], int(name.rpartition(", ")[2])
        wall, cpu = summary(each, "wall"), summary(each, "cpu")
        print(
            f"{name:36} {wall[0]:6.2f} s ({wall[1]:.2f}-{wall[2]:.2f}) {cpu[0]:6.2f} s CPU ({cpu[1]:.2f}-{cpu[2]:.2f})"
            f" {size / wall[0] / 1e6:7.0f} MB/s {count / wall[0]:8.0f} samples/s"
        )
    ratios = {} if lacking else compared(found, counts)
    for name, why in lacking.items():
        print(f"{name}: MISSING: {why}")
    told: dict[str, Any] = {"counts": counts, "bytes": sizes, "folder": str(arguments.folder), "ratios": ratios}
    told |= {"threads": os.cpu_count(), "machine": [before, machine()]}
    print(write("indexing", found, lacking, to=arguments.json, **told))
    return 1 if lacking else 0


OURS: dict[str, list[str]] = {"mmdata": [], "mmdata, no report": ["--no-report"]}


def compared(found: dict[str, list[Row]], counts: dict[str, int]) -> dict[str, dict[str, float]]:
    """How many times as long `energon prepare` takes: whole commands, and marginal samples."""
    ratios: dict[str, dict[str, float]] = {}
    for name in OURS:
        for kind, count in counts.items():
            for key in ("wall", "cpu"):
                mine, other = (
                    [summary(found[f"{who}: {kind}, {size}"], key)[0] for size in (count, count // 4)]
                    for who in (name, "energon")
                )
                each = [(whole - fewer) / (count - count // 4) * 1e3 for whole, fewer in (mine, other)]
                ratios[f"{name}: {kind}, {key}"] = {
                    "whole": other[0] / mine[0],
                    "ours_ms": each[0],
                    "theirs_ms": each[1],
                }
                print(
                    f"{name}: {kind}, {key}: {other[0] / mine[0]:.1f} x energon whole;"
                    f" each more sample {each[0]:.3f} ms, energon {each[1]:.3f} ms"
                )
    return ratios


def ours(root: Path, tars: str, options: list[str]) -> Row:
    output = root / "ours"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "mmdata.index", str(root / tars), "--output", str(output), "--quiet"]
    return timed([*command, *options])


def theirs(root: Path, tars: str) -> Row:
    """On a copy of links, since it writes beside the tars."""
    folder = root / "theirs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for tar in (root / tars).iterdir():
        os.link(tar, folder / tar.name)
    energon = str(PEERS["energon"].python.with_name("energon"))
    options = ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CaptioningSample"]
    return timed([energon, "prepare", str(folder), *options])


if __name__ == "__main__":
    sys.exit(main())
