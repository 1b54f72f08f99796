"""Writing shards: samples held in memory into WebDataset tars, ours with index and checksums beside the peers without.

`python -m benchmarks.shard_writing [--count 200] [--rounds 15] [--folder /dev/shm] [--json FILE]`, after
`python -m benchmarks.peers`.
Each writer is a process of its own; they take turns. The samples are real JPEGs with a caption and a JSON object, in
two sets: photographs of 0.2 to 4 megapixels, and the same at 256 pixels. All write into the same folder, a file system
in memory unless told otherwise. What ours does besides: the place, facts and crc32c of every part in an Arrow index;
the sha256 of the shard, in a second thread ("+ sha256"); and for "a build's unit" the ledger and fsync of every file
too. webdataset's ShardWriter is used as its documentation shows, and computes no checksum. Ratios are of the same
round, over 1 where ours is faster; those of CPU time are the steadier ones where others use the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import os
import pickle
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks import _photos
from benchmarks._interleaved import Contender, Row, machine, ratio, rounds, summary, write
from benchmarks._shard_writers import WRITERS
from benchmarks.peers import PEERS, missing

SCRIPT = Path(__file__).parent / "_shard_writers.py"
PEER, FLOOR = "webdataset ShardWriter", "writev of the members"
SETS = ("photos", "photos256")


def prepare(folder: Path, count: int) -> None:
    """The sets of samples, one file each."""
    data = Path(__file__).parent / "data" / "photos" / "images"
    _photos.write(data, count)
    for kind in SETS:
        rows = []
        for number in range(count):
            jpeg = (data / f"{number:06d}.jpg").read_bytes()
            with Image.open(io.BytesIO(jpeg)) as picture:
                if kind == "photos256":
                    picture.thumbnail((256, 256))
                    picture.save(buffer := io.BytesIO(), "JPEG", quality=90)
                    jpeg = buffer.getvalue()
                width, height = picture.size
            meta = {
                "key": f"{number:09d}",
                "url": f"https://example.org/pictures/{number:06d}.jpg",
                "width": width,
                "height": height,
                "sha256": hashlib.sha256(jpeg).hexdigest(),
            }
            rows.append((f"{number:09d}", jpeg, f"a photograph, cut and scaled, number {number} of {count}", meta))
        (folder / f"{kind}.pickle").write_bytes(pickle.dumps(rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where all write (default: /dev/shm)")
    parser.add_argument("--json", type=Path, help="write the figures here, not into benchmarks/results")
    arguments = parser.parse_args()
    reason = missing(["webdataset"])["webdataset"]
    lacking = {} if reason is None else {PEER: reason}
    found: dict[str, dict[str, list[Row]]] = {}
    before = machine()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        prepare(Path(folder), arguments.count)
        for kind in SETS:
            contenders = {
                name: Contender(
                    [str(PEERS["webdataset"].python), str(SCRIPT), name, folder]
                    if name == PEER
                    else [sys.executable, "-m", "benchmarks._shard_writers", name, folder],
                    Path(folder) / f"{name.replace(' ', '_').replace(':', '')}.log",
                )
                for name in WRITERS
                if name not in lacking
            }
            try:
                found[kind], failed = rounds(contenders, kind, arguments.rounds)
            finally:
                for contender in contenders.values():
                    contender.end()
            lacking |= failed
    for kind in SETS:
        show(kind, found[kind])
    for name, reason in lacking.items():
        print(f"{name}: MISSING: {reason}")
    told = {"count": arguments.count, "folder": str(arguments.folder), "machine": [before, machine()]}
    print(write("shard_writing", found, lacking, to=arguments.json, threads=os.cpu_count(), **told))
    return 1 if lacking else 0


def show(kind: str, found: dict[str, list[Row]]) -> None:
    first = next(iter(found.values()))[0]
    print(f"\n{kind}: {first['samples']:.0f} samples, {first['bytes'] / first['samples'] / 1e3:.0f} KB mean")
    print(f"{'':26}{'MB/s median (min-max)':>26}{'us/sample':>11}{'x peer':>8}{'x peer, CPU':>13}{'of floor':>10}")
    for row in itertools.chain(*found.values()):
        row["rate"] = row["bytes"] / row["seconds"] / 1e6
        row["cpu_rate"] = row["bytes"] / row["cpu"] / 1e6
    for name, rows in found.items():
        middle, least, most = summary(rows, "rate")
        each = summary(rows, "seconds")[0] / first["samples"] * 1e6
        against = [
            f"{ratio(rows, found[other], key)[0]:.2f}" if other in found else "-"
            for other, key in ((PEER, "rate"), (PEER, "cpu_rate"), (FLOOR, "rate"))
        ]
        figures = f"{middle:.0f} ({least:.0f}-{most:.0f})"
        print(f"{name:26}{figures:>26}{each:11.0f}{against[0]:>8}{against[1]:>13}{against[2]:>10}")


if __name__ == "__main__":
    sys.exit(main())
