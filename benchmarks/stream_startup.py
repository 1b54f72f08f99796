"""What it costs to begin: imports, the first sample, each one after it, and going on in the middle of an epoch.

`python -m benchmarks.stream_startup [--count 4000] [--shards 10 1000] [--peers NAME ...]`, after
`python -m benchmarks.peers`; by default all peers, `--peers` alone leaves them out. Samples of
2 KB with a short text each, the same ones in few and in many shards, from the page cache; one fresh process a row, one
row at a time, no worker processes. `resume` opens the data anew and goes on at half of them, to the first sample. Peers
that the table does not have are told as missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._interleaved import Row, write
from benchmarks._raw_data import write_raw
from benchmarks._startup_contenders import PREPARE, READERS
from benchmarks.peers import PEERS, missing

SCRIPT = Path(__file__).parent / "_startup_contenders.py"
READ_ON = 1500
"""Samples after the first one that are timed."""
SECONDS = 60
"""A row that takes longer is told as failed."""
FIGURES = ("import_s", "import_mb", "first_ms", "sample_us", "sample_cpu_us", "resume_ms", "peak_mb")


def start(name: str, *arguments: str) -> str:
    """What a process of a reader answers. Raises RuntimeError with the last line it said."""
    ours = name not in PEERS
    command = [sys.executable, "-m", "benchmarks._startup_contenders"] if ours else [str(PEERS[name].python), SCRIPT]
    try:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took longer than {SECONDS} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(f"failed: {said[-1][:160] if said else done.returncode}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--only", nargs="+", choices=READERS)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="run beside ours")
    parser.add_argument("--data", help="folder to keep the data in between runs; else they are made anew")
    arguments = parser.parse_args()
    wanted = list(arguments.only or (name for name in READERS if name not in PEERS or name in arguments.peers))
    lacking = {name: reason for name, reason in missing(set(PEERS).intersection(wanted)).items() if reason}
    if not arguments.only:
        lacking |= {name: "has no reader in this benchmark" for name in PEERS if name not in READERS}
        lacking |= {name: "left out" for name in PEERS if name in READERS and name not in wanted}
    found: dict[str, list[Row]] = {}
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        for shards in arguments.shards:
            root = Path(arguments.data or temporary) / f"shards{shards}"
            root.mkdir(parents=True, exist_ok=True)
            if not (root / "dataset" / "manifest.json").exists():
                write_raw(root / "dataset", arguments.count, 2 << 10, shards)
            for name in wanted:
                if name in lacking or (name == "import mmdata" and name in found):  # which reads no shards
                    continue
                ready = root / f"{name}.ready"
                try:
                    if name in PREPARE and not ready.exists():
                        start(name, "prepare", name, str(root))
                        ready.touch()
                    answer = start(name, "run", name, str(root), str(arguments.count), str(READ_ON))
                except RuntimeError as error:
                    lacking[name] = f"{shards} shards: {error}"
                    failed = True
                    continue
                found.setdefault(name, []).append({"shards": shards, **json.loads(answer)})
    print(f"{arguments.count} samples of 2 KB")
    print(f"{'':24}{'shards':>7}" + "".join(f"{name:>14}" for name in FIGURES))
    for name, rows in found.items():
        for row in rows:
            figures = "" if name == "import mmdata" else "".join(f"{row[key]:14.2f}" for key in FIGURES[2:])
            print(f"{name:24}{row['shards']:7.0f}{row['import_s']:14.2f}{row['import_mb']:14.1f}{figures}")
    for name, reason in lacking.items():
        print(f"{name}: MISSING: {reason}")
    if not arguments.only:
        print(write("stream_startup", found, lacking, count=arguments.count))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
