"""Photographs from tar shards to 336 x 336 normalised floats, against the peers, the same decoder in all of them.

`python -m benchmarks.stream_decoded [--count 400] [--rounds 5] [--threads 2] [--only NAME ...]`, after `python -m
benchmarks.peers`. JPEGs of 0.2 to 4 megapixels made of real photographs, in batches of 16. Every loader runs in a
process of its own, with as many workers or threads as cores, and does one pass after the other in turn with the
others; data that a peer wants in its own format are converted first. Imports are done before; starting workers is part
of a pass. `rate` is of whole passes, `steady_rate` from the end of their first quarter on; ratios are of the same
round. The bare loop decodes bytes that lie in memory, on as many threads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path

import yaml

from benchmarks import _options
from benchmarks._contenders import LOADERS, PREPARE
from benchmarks._contenders import own as own_decoder
from benchmarks._interleaved import ROOT, race, table
from benchmarks._photos import write as write_photos
from benchmarks.claims import beside, best_of, write
from benchmarks.peers import PEERS, PYTHONS, lacking, versions
from mmdata.build import build_dataset

MODULE = "benchmarks._contenders"
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


def convert(name: str, root: Path) -> str | None:
    """Make the data of a peer in its own format, unless they are there; why that failed, or None."""
    ready = root / f"{name}.ready"
    if name not in PREPARE or ready.exists():
        return None
    command = [str(PEERS[name].python), "-m", MODULE, name, str(root), "prepare"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        return f"cannot be prepared: {done.stderr.strip().splitlines()[-1][:160]}"
    ready.touch()
    return None


def main() -> int:
    parser = _options.parser(__doc__)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=LOADERS)
    parser.add_argument("--data", help="folder to keep the data in between runs; else they are made anew")
    _options.add_ours(parser)
    arguments = _options.parse(parser, count=160, rounds=5)
    wanted = list(arguments.only or LOADERS)
    missing = lacking(wanted)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(arguments.data or temporary).resolve()
        if not (root / "dataset" / "manifest.json").exists():
            root.mkdir(parents=True, exist_ok=True)
            prepare(root, arguments.count, arguments.threads)
        if arguments.ours:
            _options.repeat(arguments.ours, [lambda: deque(own_decoder(str(root), arguments.threads), 0)])
            return 0
        missing |= {name: why for name in wanted if name not in missing and (why := convert(name, root))}
        names = [name for name in wanted if name not in missing]
        given, count = (str(root), str(arguments.threads)), arguments.rounds
        found, failed = race(names, MODULE, root, *given, line=str(arguments.count), count=count, pythons=PYTHONS)
    missing |= failed
    print(f"{arguments.count} photographs, {arguments.threads} threads or workers, {arguments.rounds} rounds")
    table(found, "rate", "steady_rate", "cpu_ms", "first")
    peers = [name for name in LOADERS if name in PEERS]
    same, own, guarded = (f"mmdata, {which} decoder" for which in ("same", "own", "guarded"))
    what = "photographs to 336 x 336 floats"
    steady = [(same, 1.15, True), (own, 1.3, True), (guarded, None, False)]
    claims = [
        best_of(f"{what}, steady", found, ours, peers, by="steady_rate", goal=goal, missing=missing, headline=headline)
        for ours, goal, headline in steady
    ]
    claims += [best_of(f"{what}, whole passes", found, ours, peers, by="rate", missing=missing) for ours in (same, own)]
    claims.append(
        beside(f"{what}, steady", found, same, FLOOR, by="steady_rate", goal=0.9, floor=True, missing=missing)
    )
    told = {"count": arguments.count, "threads": arguments.threads}
    if not arguments.only or arguments.json:
        peers_there = versions(found)
        write("stream_decoded", claims, figures=found, missing=missing, peers=peers_there, to=arguments.json, **told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
