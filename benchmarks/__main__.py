"""`python -m benchmarks`: every benchmark in turn, its figures into benchmarks/results/, and the tables of all of them.

    python -m benchmarks.peers             # once: the environments of the peers
    python -m benchmarks [--quick] [--only NAME ...]
    python -m benchmarks --table           # only the tables, of the results that are there

A benchmark that fails does not stop the others; the exit code is then 1. A peer that is not there is told as missing.
Whole, it takes hours on two cores; `--quick`, on small sizes, 25 minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks import claims

SCRIPTS = (
    "decode_steps",
    "decode_resize",
    "processors",
    "dali",
    "video_decode",
    "log_mel",
    "audio_load",
    "packing",
    "planner",
    "packed_training",
    "materialized",
    "stream_raw",
    "stream_startup",
    "stream_memory",
    "stream_decoded",
    "stream_workers",
    "worker_pool",
    "near_dup",
    "shard_writing",
    "indexing",
    "mixed_build",
    "build_memory",
    "build_vs_img2dataset",
)
GPU = ("gpu_training",)
"""What needs a GPU, and runs where there is one."""


def run(names: Sequence[str], *, quick: bool) -> list[str]:
    """Run the scripts one by one, and say how long each takes; those that failed."""
    failed = []
    begun = time.monotonic()
    for number, name in enumerate(names, 1):
        now = time.monotonic()
        print(f"\n== {name}: {number} of {len(names)}, {(now - begun) / 60:.1f} minutes so far", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
        if code := subprocess.run(command, check=False).returncode:
            failed.append(name)
        told = f"failed with exit code {code}" if code else "done"
        print(f"== {name}: {told} in {time.monotonic() - now:.0f} s", flush=True)
    return failed


def has_gpu() -> bool:
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return not subprocess.run([sys.executable, "-c", code], check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=(*SCRIPTS, *GPU), metavar="NAME", help=", ".join((*SCRIPTS, *GPU)))
    parser.add_argument("--quick", action="store_true", help="small sizes, for 25 minutes on two quiet cores")
    parser.add_argument(
        "--table", action="store_true", help="only write the tables anew, of the results that are there"
    )
    arguments = parser.parse_args()
    failed: list[str] = []
    if not arguments.table:
        failed = run(arguments.only or (*SCRIPTS, *(GPU if has_gpu() else ())), quick=arguments.quick)
    claims.write_tables()
    print(f"{claims.TABLE}\n{claims.README}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
