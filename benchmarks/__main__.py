"""`python -m benchmarks`: every benchmark in turn, each with its defaults; figures into benchmarks/results/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = (
    "decode_steps",
    "decode_resize",
    "processors",
    "dali",
    "video_decode",
    "log_mel",
    "audio_load",
    "packing",
    "materialized",
    "stream_raw",
    "stream_startup",
    "stream_memory",
    "stream_decoded",
    "stream_workers",
    "worker_pool",
    "near_dup",
    "mixed_build",
    "shard_writing",
    "indexing",
    "build_memory",
    "build_vs_img2dataset",
)


def main() -> int:
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    failed = []
    for name in SCRIPTS:
        print(f"\n== {name}", flush=True)
        with open(results / f"{name}.txt", "w") as file:
            process = subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                file.write(line)
        if process.wait():
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
