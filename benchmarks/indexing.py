"""Indexing tars that another has written: `python -m mmdata.index` beside `energon prepare`, whole commands.

`python -m benchmarks.indexing [--count 100000] [--photos 4000] [--rounds 5] [--folder /dev/shm]`, after
`python -m benchmarks.peers`.
The tars hold a JPEG, a caption and a JSON object a sample, and each command finds them as they were: photographs of a
few hundred kilobytes, told in MB/s, and pictures of 256 pixels, told in samples/s. Each command runs in turn with its
start-up ("whole"), on many samples and on a few, of which start-up is most: what each more sample costs is the
difference. A tar has a thousand photographs, or ten thousand small pictures.

What `energon prepare` makes is a list of places: it takes no sums. "mmdata, no sums" (`--no-report --digest none`) is
the like of it, and what the goal is for; it still says format, height, width and mode of every picture and parses every
JSON object, and each sample has its fate in a ledger. "mmdata, no report" takes crc32c of every part and row and sha256
of every tar (in a second thread) as well, without which no reader can tell that a byte has changed, and "mmdata", which
is the default, makes statistics and a report in a process beside. sha256 of each medium is an option (`--digest
sha256`).

The sums read all bytes; without them little more than headers is read. The floor is a Python that loads numpy and
pyarrow, as our start-up does, and indexes nothing.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import _options
from benchmarks._interleaved import Row, table
from benchmarks._shard_writers import tarfile
from benchmarks.build_vs_img2dataset import marginal, timed
from benchmarks.claims import beside, write
from benchmarks.peers import PEERS, lacking, versions
from benchmarks.shard_writing import prepare

PICTURES = 200
SETS = {"photos": "photos", "small": "photos256"}
FEW = {"photos": 200, "small": 1000}
"""Samples of which start-up is most of the time."""
SHARDS = {"photos": 1000, "small": 10_000}
"""Samples of a tar: as many small ones as img2dataset writes unless it is told otherwise."""


NO_SUMS = "mmdata, no sums"
OURS: dict[str, list[str]] = {
    "mmdata": [],
    "mmdata, no report": ["--no-report"],
    NO_SUMS: ["--no-report", "--digest", "none"],
}
PEER = "energon prepare"
FLOOR = "floor: numpy and pyarrow"


def main() -> int:
    parser = _options.parser(__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="samples of 256 pixels (default: 100000)")
    parser.add_argument("--photos", type=int, default=4000, help="samples of photographs (default: 4000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where all lies (default: /dev/shm)")
    _options.add_ours(parser)
    arguments = _options.parse(parser, count=20_000, photos=400, rounds=2)
    missing = dict.fromkeys([PEER], reason) if (reason := lacking(["energon"]).get("energon")) else {}
    counts = {"photos": arguments.photos, "small": arguments.count}
    figures: dict[str, dict[str, list[Row]]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        root = Path(temporary)
        prepare(root, PICTURES)
        for kind, file in SETS.items():
            rows = pickle.loads((root / f"{file}.pickle").read_bytes())
            for count in (counts[kind], FEW[kind]):
                tars = root / f"{kind}{count}"
                tars.mkdir()
                listed = [(f"{number:09d}", *rows[number % PICTURES][1:]) for number in range(count)]
                tarfile(listed, tars, SHARDS[kind])
        if arguments.ours:
            for _ in range(arguments.ours):
                for kind, count in counts.items():
                    for options in OURS.values():
                        ours(root, f"{kind}{count}", options)
            return 0
        for kind, count in counts.items():
            times: dict[str, dict[int, list[Row]]] = {}
            for _ in range(arguments.rounds):
                for size in (count, FEW[kind]):
                    for name, options in OURS.items():
                        row = ours(root, f"{kind}{size}", options)
                        times.setdefault(name, {}).setdefault(size, []).append(row)
                    times.setdefault(FLOOR, {}).setdefault(size, []).append(starting())
                    if not missing:
                        row = theirs(root, f"{kind}{size}")
                        times.setdefault(PEER, {}).setdefault(size, []).append(row)
            few = FEW[kind]
            figures[kind] = {name: marginal(each[count], each[few], count - few) for name, each in times.items()}
            figures[f"{few} {kind}"] = {name: each[few] for name, each in times.items()}
            print(f"{few} {kind}: seconds of whole commands")
            table(figures[f"{few} {kind}"])
            print(f"{count} {kind}: the same, and milliseconds of each more sample")
            table(figures[kind])
    claims = []
    for kind in counts:
        found, less = figures[kind], figures[f"{FEW[kind]} {kind}"]
        for name in OURS:
            what, goal = f"indexing tars of {counts[kind]:,} {kind}", 20.0 if name == NO_SUMS else None
            head = kind == "small" and goal is not None
            more = {"missing": missing}
            claims += [
                beside(f"{what}, CPU time", found, name, PEER, by="cpu", goal=goal, headline=head, **more),
                beside(f"{what}, wall time", found, name, PEER, by="wall", **more),
                beside(f"{what}, CPU time of each more", found, name, PEER, by="marginal_cpu_ms", **more),
                beside(f"indexing tars of {FEW[kind]:,} {kind}, CPU time", less, name, PEER, by="cpu", **more),
            ]
        claims += [
            beside(
                f"indexing tars of {counts[kind]:,} {kind}, CPU time", found, FLOOR, PEER, by="cpu", missing=missing
            ),
            beside(f"indexing tars of {counts[kind]:,} {kind}, CPU time", found, NO_SUMS, FLOOR, by="cpu", floor=True),
        ]
    told: dict[str, Any] = {"counts": counts, "folder": str(arguments.folder), "peers": versions(["energon"])}
    write("indexing", claims, figures=figures, missing=missing, threads=2, to=arguments.json, **told)
    return 0


def ours(root: Path, tars: str, options: list[str]) -> Row:
    output = root / "ours"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "mmdata.index", str(root / tars), "--output", str(output), "--quiet"]
    return timed([*command, *options])


def starting() -> Row:
    code = "from mmdata import startup; startup.spare_threads(); startup.spare_drivers()"
    return timed([sys.executable, "-c", code])


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
