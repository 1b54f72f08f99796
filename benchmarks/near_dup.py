"""How the time of near-duplicate removal grows with the number of pictures, as in a build: look up, keep or drop.

    python -m benchmarks.near_dup [--radius 6] [--sizes 10000 100000 1000000] [--spread 10] [--json FILE]

The hashes are clumpy, as those of real crawls are: clumps of very unequal size (a power law, about 100 members on
average), members that differ from the clump's centre in 0 to `spread` bits, and every tenth hash on its own. Flat
pictures have no hash and are not searched. A quadratic method would show a ratio of 100 for ten times the rows, a
linear one 10. Times are those of the process's CPU, wall beside them.

Before that, exactness: on the first `--brute` hashes each answer is compared with a scan of all that was kept, and the
close pairs of the first `--pairs` with those of every pair measured. One difference ends the run.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks._interleaved import Row, machine, write
from mmdata.hamming import HammingIndex, pairs


def clumpy(count: int, spread: int, seed: int = 0) -> NDArray[np.uint64]:
    """u64[count]: members of clumps of about 100 on average, whose sizes follow a power law, in random order."""
    draw = np.random.default_rng(seed)
    centres = draw.integers(0, 2**64, size=max(count // 100, 1), dtype=np.uint64)
    popularity = 1.0 / np.arange(1, len(centres) + 1) ** 0.8
    hashes = centres[draw.choice(len(centres), size=count, p=popularity / popularity.sum())]
    flips = draw.integers(0, spread + 1, size=count)
    for k in range(spread):
        bit = np.uint64(1) << draw.integers(0, 64, size=count, dtype=np.uint64)
        hashes = np.where(flips > k, hashes ^ bit, hashes)
    alone = draw.random(count) < 0.1
    return np.where(alone, draw.integers(0, 2**64, size=count, dtype=np.uint64), hashes)


def run(count: int, radius: int, spread: int) -> Row:
    """Rows, rows kept, seconds, CPU seconds, peak MiB of the process so far."""
    hashes = clumpy(count, spread).tolist()
    index = HammingIndex(radius=radius)
    kept = 0
    used, start = time.process_time(), time.perf_counter()
    for value in hashes:
        if index.nearest(value) is None:
            index.add(value, kept)
            kept += 1
    row = {"rows": count, "kept": kept, "seconds": time.perf_counter() - start, "cpu": time.process_time() - used}
    return {**row, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def against_a_scan(count: int, radius: int, spread: int) -> int:
    """Duplicates found among `count` hashes, each answer that of a scan. Raises SystemExit where one differs."""
    index, kept = HammingIndex(radius=radius), np.empty(count, dtype=np.uint64)
    size = 0
    for value in clumpy(count, spread):
        found = index.nearest(int(value))
        distances = np.bitwise_count(kept[:size] ^ value)
        at = int(distances.argmin()) if size else 0
        true = (int(distances[at]), at) if size and distances[at] <= radius else None
        if found != true:
            raise SystemExit(f"{int(value):#x} among {size:,} hashes: {found}, a scan finds {true}")
        if found is None:
            index.add(int(value), size)
            kept[size] = value
            size += 1
    return count - size


def every_pair(count: int, radius: int, spread: int) -> int:
    """Close pairs among `count` hashes, the same as by measuring all. Raises SystemExit where they differ."""
    hashes = clumpy(count, spread)
    found = pairs(hashes, radius)
    true = 0
    for first in range(0, count, 500):
        near = np.argwhere(np.bitwise_count(hashes[first : first + 500, None] ^ hashes) <= radius)
        near = near[near[:, 0] + first < near[:, 1]] + [first, 0]
        if not np.array_equal(near, found[true : true + len(near)]):
            raise SystemExit(f"pairs of hashes {first:,} to {first + 500:,} differ from those of every pair measured")
        true += len(near)
    if true != len(found):
        raise SystemExit(f"{len(found):,} pairs, {true:,} by measuring every one")
    return true


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--radius", type=int, default=6)
    parser.add_argument("--spread", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--brute", type=int, default=50_000, help="hashes looked up by a scan too")
    parser.add_argument("--pairs", type=int, default=10_000, help="hashes of which every pair is measured")
    parser.add_argument("--json", type=Path, help="write the figures here, not into benchmarks/results")
    options = parser.parse_args()
    print(f"radius {options.radius}, spread {options.spread}")
    checked = {
        "duplicates": against_a_scan(options.brute, options.radius, options.spread),
        "pairs": every_pair(options.pairs, options.radius, options.spread),
    }
    print(f"{options.brute:,} hashes: {checked['duplicates']:,} near an earlier kept one, as by a scan")
    print(f"{options.pairs:,} hashes: {checked['pairs']:,} close pairs, as by measuring every pair")
    rows: list[Row] = []
    for count in options.sizes:
        row = run(count, options.radius, options.spread)
        each = row["cpu"] / count * 1e6
        ratio = ""
        if rows:
            row["ratio"], row["cpu_ratio"] = row["seconds"] / rows[-1]["seconds"], row["cpu"] / rows[-1]["cpu"]
            ratio = f"  {row['cpu_ratio']:5.1f} times the CPU time of {rows[-1]['rows']:,.0f}"
        print(
            f"{count:>10,} rows  {row['kept']:>9,.0f} kept  {row['seconds']:8.2f} s  {row['cpu']:8.2f} s CPU"
            f"  {each:6.1f} us/row  {row['mib']:6.0f} MiB peak{ratio}",
            flush=True,
        )
        rows.append(row)
    told = {"radius": options.radius, "spread": options.spread, "machine": machine()}
    told |= {"brute": options.brute, "pairs": options.pairs, "checked": checked}
    print(write("near_dup", {"mmdata": rows}, {}, to=options.json, **told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
