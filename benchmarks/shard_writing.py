"""Writing shards: samples held in memory into WebDataset tars, ours with index and checksums beside the peers without.

`python -m benchmarks.shard_writing [--count 400] [--rounds 15] [--folder /dev/shm]`, after
`python -m benchmarks.peers`.
Each writer is a process of its own; they take turns. The samples are real JPEGs with a caption and a JSON object, in
two sets: photographs of 0.2 to 4 megapixels, and the same at 256 pixels. All write into the same folder, a file system
in memory unless told otherwise. What ours does besides: the place, facts and crc32c of every part in an Arrow index;
the sha256 of the shard, in a second thread ("+ sha256"); and for "a build's unit" the ledger and fsync of every file
too. We write 128 KB at a time, in the thread that has just taken its checksum, whose bytes the processor still has at
hand. webdataset's ShardWriter is used as its documentation shows, and computes no checksum. Claims are of CPU
time unless they say otherwise: others who use the machine hardly change it. The goal of "+ sha256" is of wall time,
for which it is taken in a second thread; its CPU time, of both threads, stands beside it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks import _options, _photos
from benchmarks._interleaved import race, table
from benchmarks._shard_writers import WRITERS
from benchmarks.claims import beside, write
from benchmarks.peers import PYTHONS, lacking, versions

PEER, FLOOR = "webdataset ShardWriter", "writev of the members"
SUMMED, UNIT = "mmdata: + sha256", "mmdata: a build's unit"
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


def only_ours(folder: Path, passes: int) -> None:
    """The photographs with index and crc32c, in this process; each pass writes over the files of the one before, which
    are emptied first."""
    form, written = WRITERS["mmdata: index, crc32c"]
    samples = list(map(form, pickle.loads((folder / f"{SETS[0]}.pickle").read_bytes())))
    out = folder / "ours"
    out.mkdir()
    _options.repeat(passes, [lambda: written(samples, out)])


def main() -> int:
    parser = _options.parser(__doc__)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where all write (default: /dev/shm)")
    _options.add_ours(parser)
    arguments = _options.parse(parser, count=200, rounds=9)
    missing = dict.fromkeys([PEER], reason) if (reason := lacking(["webdataset"]).get("webdataset")) else {}
    names = [name for name in WRITERS if name not in missing]
    figures, claims = {}, []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        prepare(Path(folder), arguments.count)
        if arguments.ours:
            only_ours(Path(folder), arguments.ours)
            return 0
        for kind in SETS:
            module, pythons = "benchmarks._shard_writers", {PEER: PYTHONS["webdataset"]}
            found, failed = race(
                names, module, Path(folder), folder, line=kind, count=arguments.rounds, pythons=pythons
            )
            missing |= failed
            first = next(iter(found.values()))[0]
            size = f"{first['bytes'] / first['samples'] / 1e3:.0f} KB"
            print(f"\n{kind}: {first['samples']:.0f} samples of {size} on average, MB/s")
            table(found, "rate", "cpu_rate")
            figures[kind] = found
            for ours, other, goal in (
                ("mmdata: index, crc32c", PEER, 3.0),
                (SUMMED, PEER, None),
                (UNIT, PEER, None),
                ("mmdata: index, crc32c", FLOOR, 0.8),
            ):
                more = {"floor": other == FLOOR, "headline": goal is not None and other == PEER and kind == "photos"}
                what = f"shards of samples of {size}"
                claims.append(beside(what, found, ours, other, by="cpu_rate", goal=goal, missing=missing, **more))
                if other == PEER and ours != UNIT:
                    more = {"goal": 1.2, "headline": kind == "photos"} if ours == SUMMED else {}
                    claims.append(beside(f"{what}, wall time", found, ours, other, by="rate", missing=missing, **more))
    told = {"count": arguments.count, "folder": str(arguments.folder), "peers": versions(["webdataset"])}
    write("shard_writing", claims, figures=figures, missing=missing, threads=2, to=arguments.json, **told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
