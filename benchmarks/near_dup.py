"""How the time of near-duplicate removal grows with the number of pictures, as in a build: look up, keep or drop.

    python benchmarks/near_dup.py [--radius 6] [--sizes 10000 100000] [--spread 10]

The hashes are clumpy, as those of real crawls are: clumps of very unequal size, members that differ from the
clump's centre in 0 to `spread` bits, and every tenth hash on its own. A quadratic method would show a ratio of
100 for ten times the rows, a linear one 10.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from numpy.typing import NDArray

from mmdata.hamming import HammingIndex


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


def run(count: int, radius: int, spread: int) -> tuple[float, int]:
    """Seconds, and rows kept."""
    hashes = clumpy(count, spread).tolist()
    index = HammingIndex(radius=radius)
    kept = 0
    start = time.perf_counter()
    for value in hashes:
        if index.nearest(value) is None:
            index.add(value, kept)
            kept += 1
    return time.perf_counter() - start, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--radius", type=int, default=6)
    parser.add_argument("--spread", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    options = parser.parse_args()
    before = None
    print(f"radius {options.radius}, spread {options.spread}")
    for count in options.sizes:
        seconds, kept = run(count, options.radius, options.spread)
        ratio = "" if before is None else f"  {seconds / before[1]:5.1f} times the time of {before[0]:,}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        each = seconds / count * 1e6
        print(f"{count:>10,} rows  {kept:>9,} kept  {seconds:8.2f} s  {each:6.1f} us/row  {peak:6.0f} MiB peak{ratio}")
        before = (count, seconds)


if __name__ == "__main__":
    main()
