"""Photographs from tar shards to 336 x 336 normalised floats, against the peers, the same decoder in all of them.

`python -m benchmarks.stream_decoded [--count 400] [--rounds 5] [--threads 2] [--only NAME ...]`, after `python -m
benchmarks.peers`. JPEGs of 0.2 to 4 megapixels made of real photographs, in batches of 16. Every loader runs in a
process of its own, with as many workers or threads as cores, and does one pass after the other in turn with the
others; data that a peer wants in its own format are converted first. Imports are done before; starting workers is part
of a pass. `rate` is of whole passes, `steady` from the end of their first quarter on; ratios are of the same round.
The bare loop decodes bytes that lie in memory, on as many threads.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from benchmarks._contenders import LOADERS, PREPARE
from benchmarks._interleaved import Contender, ratio, rounds, summary, write
from benchmarks._photos import write as write_photos
from benchmarks.peers import PEERS, missing
from mmdata.build import build_dataset

SCRIPT = Path(__file__).parent / "_contenders.py"
OURS = tuple(name for name in LOADERS if name.startswith("mmdata"))
FLOOR = "bare loop"


def prepare(root: Path, count: int, threads: int) -> None:
    """The photographs as a dataset of ours, whose shards are plain WebDataset tars; one shard per worker at least."""
    write_photos(root / "photos", count)
    shard = max(1, min(100, count // (2 * threads)))
    spec = {
        "source": {"kind": "folder", "path": "photos"},
        "steps": [{"kind": "probe", "verify": "full"}],
        "output": {"path": "dataset", "unit_rows": shard},
    }
    (root / "spec.yaml").write_text(yaml.safe_dump(spec))
    build_dataset(str(root / "spec.yaml"), quiet=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=LOADERS)
    parser.add_argument("--data", help="folder to keep the data in between runs; else they are made anew")
    arguments = parser.parse_args()
    wanted = list(arguments.only or LOADERS)
    lacking = {name: reason for name, reason in missing(set(PEERS).intersection(wanted)).items() if reason}
    names = [name for name in wanted if name not in lacking]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(arguments.data or temporary)
        if not (root / "dataset" / "manifest.json").exists():
            root.mkdir(parents=True, exist_ok=True)
            prepare(root, arguments.count, arguments.threads)
        for name in names:
            if name in PREPARE and not (root / f"{name}.ready").exists():
                python = str(PEERS[name].python)
                done = subprocess.run(
                    [python, str(SCRIPT), "prepare", name, str(root)], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    lacking[name] = f"cannot be prepared: {done.stderr.strip().splitlines()[-1][:160]}"
                else:
                    (root / f"{name}.ready").touch()
        contenders = {
            name: Contender(
                [
                    str(PEERS[name].python if name in PEERS else sys.executable),
                    *([str(SCRIPT)] if name in PEERS else ["-m", "benchmarks._contenders"]),
                    *("run", name, str(root), str(arguments.threads)),
                ],
                root / f"{name.replace(' ', '_')}.log",
            )
            for name in names
            if name not in lacking
        }
        try:
            found, failed = rounds(contenders, str(arguments.count), arguments.rounds)
        finally:
            for contender in contenders.values():
                contender.end()
    lacking |= failed
    print(f"{arguments.count} photographs, {arguments.threads} threads or workers, {arguments.rounds} rounds")
    print(f"{'':26}{'rate: median (min-max)':>26}{'steady':>10}{'CPU ms':>9}{'first s':>9}{'of bare':>9}")
    for name, rows in found.items():
        middle, least, most = summary([{"rate": row["pictures"] / row["seconds"]} for row in rows], "rate")
        used = summary([{"ms": 1e3 * row["cpu"] / row["pictures"]} for row in rows], "ms")[0]
        share = f"{ratio(rows, found[FLOOR], 'steady')[0]:.2f}" if FLOOR in found else ""
        print(
            f"{name:26}{middle:12.1f} ({least:.1f}-{most:.1f})".ljust(52)
            + f"{summary(rows, 'steady')[0]:10.1f}{used:9.1f}{summary(rows, 'first')[0]:9.2f}{share:>9}"
        )
    peers = [name for name in found if name in PEERS]
    if peers:
        best = max(peers, key=lambda name: summary(found[name], "steady")[0])
        for name in OURS:
            if name in found:
                steady = ratio(found[name], found[best], "steady")
                whole = ratio(found[best], found[name], "seconds")
                print(
                    f"{name}: {steady[0]:.2f}x ({steady[1]:.2f}-{steady[2]:.2f}) the fastest peer ({best}) steady, "
                    f"{whole[0]:.2f}x ({whole[1]:.2f}-{whole[2]:.2f}) whole passes"
                )
    for name, reason in lacking.items():
        print(f"{name}: MISSING: {reason}")
    if not arguments.only:
        print(write("stream_decoded", found, lacking, count=arguments.count, threads=arguments.threads))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
