"""What it costs to begin: imports, the first sample, the first batch of 32, each sample after it, and going on in the
middle of an epoch.

`python -m benchmarks.stream_startup [--count 20000] [--shards 10 1000] [--rounds 5] [--peers NAME ...]`, after `python
-m benchmarks.peers`; by default all peers, `--peers` alone leaves them out. Samples of 2 KB with a short text each, the
same ones in few and in many shards, from the page cache; one fresh process a row and round, one at a time, no worker
processes. `resume` opens the data anew and goes on at half of them, to the first sample. Peers that the table does not
have are told as missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import _options
from benchmarks._interleaved import ROOT, Row, table
from benchmarks._raw_data import write_raw
from benchmarks._startup_contenders import BATCH, PREPARE, READERS, stream
from benchmarks.claims import Claim, best_of, figure, write
from benchmarks.peers import ALONE, PEERS, PYTHONS, lacking, versions

STREAM = "mmdata stream"
"""In the order of the data, as the peers read it."""
SHUFFLED = "mmdata stream, global"
STREAMS = [name for name, peer in PEERS.items() if peer.environment not in ALONE]
READ_BY = [name for name in STREAMS if name in READERS]
READ_ON = 1500
"""Samples after the first one that are timed."""
IMPORT = "import, of which each name loads at its first use"
SECONDS = 120
"""A row that takes longer is told as failed."""
FIGURES = ("import_s", "import_mb", "first_ms", "batch_ms", "sample_us", "sample_cpu_us", "resume_ms", "peak_mb")


def start(name: str, *arguments: str) -> str:
    """What a process of a reader answers. Raises RuntimeError with the last line it said."""
    command = [str(PYTHONS.get(name, sys.executable)), "-m", "benchmarks._startup_contenders", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=ROOT)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took longer than {SECONDS} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(f"failed: {said[-1][:160] if said else done.returncode}")
    return done.stdout


def claimed(found: dict[str, list[Row]], shards: list[int], missing: dict[str, str]) -> list[Claim]:
    """`found` has rows by reader and shards, and the bare import."""
    bare = found["import mmdata"]
    claims = [
        figure(IMPORT, "mmdata", [row["import_s"] for row in bare], "s", goal=0.3, at_most=True, headline=True),
        figure(IMPORT, "mmdata", [row["import_mb"] for row in bare], "MB", goal=60, at_most=True, headline=True),
    ]
    streams = [row for name, rows in found.items() if name.startswith(f"{STREAM}, ") for row in rows]
    used = "import of what a stream needs, torch among it"
    claims.append(figure(used, "mmdata", [row["import_s"] for row in streams], "s", headline=True))
    for count in shards:
        shards_of = f", {count} shards"
        here = {name.removesuffix(shards_of): rows for name, rows in found.items() if name.endswith(shards_of)}
        peers = [name for name in here if name in PEERS]
        of = f"of {count:,} shards, imports done"
        for key, what, goal in (
            ("batch_ms", f"first batch of {BATCH} samples", 1.0),
            ("first_ms", "first sample", None),
            ("resume_ms", "resume at half an epoch", 1.0),
        ):
            more = {"by": key, "missing": missing}
            claims.append(best_of(f"{what} {of}", here, STREAM, peers, goal=goal, headline=True, **more))
            over = f"{what} {of}, above the bare index"
            values = [row[key] - base[key] for row, base in zip(here[STREAM], here["mmdata dataset"], strict=True)]
            claims.append(figure(over, STREAM, values, "ms", goal=5.0, at_most=True))
            shuffled = [row[key] for row in here[SHUFFLED]]
            claims.append(figure(f"{what} in a global order {of}", STREAM, shuffled, "ms"))
        claims.append(best_of(f"each sample of 2 KB {of}", here, STREAM, peers, by="sample_cpu_us", missing=missing))
    if len(shards) > 1:
        few, many = (f"{STREAM}, {count} shards" for count in (min(shards), max(shards)))
        what = f"CPU time of a sample, {max(shards):,} shards over {min(shards):,}"
        values = [b["sample_cpu_us"] / a["sample_cpu_us"] for a, b in zip(found[few], found[many], strict=True)]
        claims.append(figure(what, STREAM, values, "times", goal=1.5, at_most=True))
    return claims


def only_ours(folder: Path, count: int, passes: int) -> None:
    """Beginning and going on in this process, where after the first pass everything has been used before."""
    read = stream(str(folder), shuffle="none")
    _options.repeat(passes, [lambda: next(iter(read(0))), lambda: next(iter(read(count // 2)))])


def main() -> int:
    parser = _options.parser(__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", choices=READ_BY, default=list(READ_BY), help="run beside ours")
    parser.add_argument("--data", help="folder to keep the data in between runs; else they are made anew")
    _options.add_ours(parser)
    arguments = _options.parse(parser, count=4000, shards=[10, 200], rounds=3)
    wanted = [name for name in READERS if name not in PEERS or name in arguments.peers]
    missing = lacking(wanted)
    missing |= {name: "has no reader in this benchmark" for name in STREAMS if name not in READERS}
    missing |= {name: "left out" for name in READ_BY if name not in wanted}
    found: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        roots = {shards: Path(arguments.data or temporary).resolve() / f"shards{shards}" for shards in arguments.shards}
        for shards, root in roots.items():
            root.mkdir(parents=True, exist_ok=True)
            if not (root / "dataset" / "manifest.json").exists():
                write_raw(root / "dataset", arguments.count, 2 << 10, shards)
        if arguments.ours:
            only_ours(roots[min(arguments.shards)], arguments.count, arguments.ours)
            return 0
        for _ in range(arguments.rounds):
            for shards, root in roots.items():
                for name in wanted:
                    once = name == "import mmdata"  # which reads no shards
                    if name in missing or (once and shards != arguments.shards[0]):
                        continue
                    ready = root / f"{name}.ready"
                    try:
                        if name in PREPARE and not ready.exists():
                            start(name, "prepare", name, str(root))
                            ready.touch()
                        answer = start(name, "run", name, str(root), str(arguments.count), str(READ_ON))
                    except RuntimeError as error:
                        missing[name] = f"{shards} shards: {error}"
                        continue
                    found.setdefault(name if once else f"{name}, {shards} shards", []).append(json.loads(answer))
    found = {name: rows for name, rows in found.items() if name.partition(",")[0] not in missing}
    print(f"{arguments.count} samples of 2 KB")
    table(found, *FIGURES)
    claims = claimed(found, arguments.shards, missing)
    told = {"missing": missing, "peers": versions(name for name in wanted if name not in missing)}
    write("stream_startup", claims, figures=found, to=arguments.json, count=arguments.count, **told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
