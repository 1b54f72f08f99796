"""How the time of near-duplicate removal grows with the number of pictures, as in a build: look up, keep or drop.

    python -m benchmarks.near_dup [--radius 6] [--sizes 10000 100000 1000000] [--rounds 1]

The hashes are those of a crawl, in which pictures come again and again, edited:

- Pictures come in clumps whose sizes follow a power law: P(size = k) is proportional to k^-2.5, up to a hundredth of
  all. So three in four of the clumps are one picture, and the largest have thousands.
- Members of a clump differ from its first by what edits really flip. 100 pictures, cut out of the photographs that come
  with scikit-image and scikit-learn, are each edited 32 times: written again (JPEG quality 15 to 95, WebP 30 to 90),
  resized (0.2 to 1.7 times), cropped (by up to 6 % of each side) or brightened (0.7 to 1.35 times), two in three of
  them in two ways at once. What the hash (of `near_dup`) of each differs in from that of the picture is a pattern of
  bits. A clump takes its patterns from one of the pictures, its first hash by chance: so the bits that flip are few and
  the same ones, and the spread is that of real edits (`flips` of the figures: of 1,000 edits so many flip 0, 1, 2, ...
  bits).
- One picture in twenty is nearly flat (a logo, a page, a gradient) and has one of 64 hashes that such pictures share.
  Quite flat ones have no hash, and are not searched.

`--distribution balls` is a harder one: clumps of about 100, whose members flip 0 to 10 bits drawn evenly, so that
nearly half of the rows are kept, crowded just beyond the radius. A quadratic method would show a ratio of 100 for ten
times the rows, a linear one 10. Times are those of the process's CPU, wall beside them; rows are decided as the engine
decides them, by the state of the step.

Before that, exactness: on the first `--brute` hashes each answer is compared with a scan of all that was kept, and the
close pairs of the first `--pairs` with those of every pair measured. One difference ends the run.
"""

from __future__ import annotations

import functools
import io
import itertools
import resource
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from benchmarks import _options
from benchmarks._interleaved import Row
from benchmarks.claims import figure, write
from mmdata.hamming import HammingIndex, pairs
from mmdata.rng import generator
from mmdata.spec import ExpectingState
from mmdata.steps.near_dup import NearDup, phash
from mmdata.testing.photos import photos

BLOCK = 1000
"""Rows that the engine tells a state ahead."""
PICTURES, EDITS = 100, 32
SPREAD = 10
FLAT, FLAT_HASHES = 0.05, 64
POWER = 2.5


def crawled(count: int, seed: int = 0) -> NDArray[np.uint64]:
    """u64[count]: hashes in the order of a crawl, as the text above says."""
    draw = np.random.default_rng(seed)
    largest = max(count // 100, 2)
    chance = np.arange(1, largest + 1) ** -POWER
    sizes = draw.choice(np.arange(1, largest + 1), size=count, p=chance / chance.sum())
    sizes = sizes[: int(np.searchsorted(sizes.cumsum(), count)) + 1]
    clump = np.repeat(np.arange(len(sizes)), sizes)[:count]
    masks = patterns()
    first = draw.integers(0, 2**64, size=len(sizes), dtype=np.uint64)
    picture = draw.integers(0, len(masks), size=len(sizes))
    hashes = first[clump] ^ masks[picture[clump], draw.integers(0, EDITS, size=count)]
    shared = draw.integers(0, 2**64, size=FLAT_HASHES, dtype=np.uint64)
    hashes = np.where(draw.random(count) < FLAT, shared[draw.integers(0, FLAT_HASHES, size=count)], hashes)
    return draw.permutation(hashes)


@functools.cache
def patterns() -> NDArray[np.uint64]:
    """u64[PICTURES, EDITS]: the bits by which the hash of an edited picture differs from the picture's own."""
    opened = [Image.open(photo.path).convert("RGB") for photo in photos()]
    made = np.zeros((PICTURES, EDITS), dtype=np.uint64)
    at = 0
    attempt = 0
    while at < PICTURES:
        draw = generator(attempt, "near_dup picture")
        attempt += 1
        whole = opened[int(draw.integers(len(opened)))]
        side = int(min(whole.size) * draw.uniform(0.35, 1.0))
        left, top = (int(draw.integers(length - side + 1)) for length in whole.size)
        picture = whole.crop((left, top, left + side, top + side)).resize((192, 192), Image.Resampling.BOX)
        own = phash(np.asarray(picture))
        found = [phash(np.asarray(_edited(picture, draw))) for _ in range(EDITS)]
        if own is None or None in found:  # flat
            continue
        made[at] = [own ^ value for value in found if value is not None]
        at += 1
    return made


def _edited(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
    for edit in draw.choice(4, size=1 + int(draw.random() < 2 / 3), replace=False).tolist():
        width, height = picture.size
        if edit == 0:
            form = ("JPEG", "WEBP")[int(draw.random() < 0.3)]
            out = io.BytesIO()
            low, high = (15, 95) if form == "JPEG" else (30, 90)
            picture.save(out, form, quality=int(draw.integers(low, high + 1)))
            picture = Image.open(out).convert("RGB")
        elif edit == 1:
            scale = float(np.exp(draw.uniform(np.log(0.2), np.log(1.7))))
            size = (max(round(width * scale), 16), max(round(height * scale), 16))
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        elif edit == 2:
            left, top, right, bottom = draw.uniform(0, 0.06, 4).tolist()
            picture = picture.crop((width * left, height * top, width * (1 - right), height * (1 - bottom)))
        else:
            picture = ImageEnhance.Brightness(picture).enhance(float(draw.uniform(0.7, 1.35)))
    return picture


def clumpy(count: int, spread: int, seed: int = 0) -> NDArray[np.uint64]:
    """u64[count]: members of clumps of about 100 on average, whose sizes follow a power law, in random order: they
    differ from the clump's centre in 0 to `spread` bits, and every tenth is on its own."""
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


def hashes_of(distribution: str, count: int) -> NDArray[np.uint64]:
    return crawled(count) if distribution == "crawl" else clumpy(count, SPREAD)


def run(hashes: NDArray[np.uint64], radius: int) -> Row:
    """Rows, rows kept, seconds, CPU seconds, peak MiB of the process so far."""
    signatures = [{"phash": value.tobytes()} for value in hashes.byteswap()]
    state = NearDup(radius=radius).state()
    assert isinstance(state, ExpectingState)
    kept = 0
    used, start = time.process_time(), time.perf_counter()
    for at in range(0, len(signatures), BLOCK):
        some = signatures[at : at + BLOCK]
        state.expect(some)
        for number, signature in enumerate(some, at):
            key = f"{number:09d}"
            if state.check(key, signature) is None:
                state.keep(key, signature)
                kept += 1
    row = {"rows": len(hashes), "kept": kept, "seconds": time.perf_counter() - start}
    row["cpu"] = time.process_time() - used
    return {**row, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def against_a_scan(hashes: NDArray[np.uint64], radius: int) -> int:
    """Duplicates found among the hashes, each answer that of a scan. Raises SystemExit where one differs."""
    index, kept = HammingIndex(radius=radius), np.empty(len(hashes), dtype=np.uint64)
    size = 0
    for number, value in enumerate(hashes):
        if number % BLOCK == 0:
            index.expect(hashes[number : number + BLOCK].tolist())
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
    return len(hashes) - size


def every_pair(hashes: NDArray[np.uint64], radius: int) -> int:
    """Close pairs among the hashes, the same as by measuring all. Raises SystemExit where they differ."""
    found = pairs(hashes, radius)
    true = 0
    for first in range(0, len(hashes), 500):
        near = np.argwhere(np.bitwise_count(hashes[first : first + 500, None] ^ hashes) <= radius)
        near = near[near[:, 0] + first < near[:, 1]] + np.array([first, 0])
        if not np.array_equal(near, found[true : true + len(near)]):
            raise SystemExit(f"pairs of hashes {first:,} to {first + 500:,} differ from those of every pair measured")
        true += len(near)
    if true != len(found):
        raise SystemExit(f"{len(found):,} pairs, {true:,} by measuring every one")
    return true


def main() -> int:
    parser = _options.parser(__doc__)
    parser.add_argument("--radius", type=int, default=6)
    parser.add_argument("--distribution", choices=("crawl", "balls"), default="crawl")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--brute", type=int, default=100_000, help="hashes looked up by a scan too")
    parser.add_argument("--pairs", type=int, default=20_000, help="hashes of which every pair is measured")
    parser.add_argument("--rounds", type=int, default=1, help="times that each size is run, in turn (default: 1)")
    options = _options.parse(parser, sizes=[100_000, 1_000_000], brute=10_000, pairs=5_000)
    flips = np.bincount(np.bitwise_count(patterns()).ravel())
    told: dict[str, Any] = {"radius": options.radius, "distribution": options.distribution}
    told["flips"] = np.round(1000 * flips / flips.sum(), 1).tolist()
    print(f"radius {options.radius}; of 1,000 edits so many flip 0, 1, 2, ... bits: {told['flips']}", flush=True)
    checked = {
        "duplicates": against_a_scan(hashes_of(options.distribution, options.brute), options.radius),
        "pairs": every_pair(hashes_of(options.distribution, options.pairs), options.radius),
    }
    print(f"{options.brute:,} hashes: {checked['duplicates']:,} near an earlier kept one, as by a scan")
    print(f"{options.pairs:,} hashes: {checked['pairs']:,} close pairs, as by measuring every pair")
    found: dict[int, list[Row]] = {count: [] for count in options.sizes}
    for _ in range(options.rounds):
        for count in options.sizes:
            row = run(hashes_of(options.distribution, count), options.radius)
            found[count].append(row)
            print(
                f"{count:>10,} rows  {row['kept']:>9,.0f} kept  {row['seconds']:8.2f} s  {row['cpu']:8.2f} s CPU"
                f"  {row['cpu'] / count * 1e6:6.1f} us/row  {row['mib']:6.0f} MiB peak",
                flush=True,
            )
    claims = [
        figure("near-duplicates that a scan finds and the index does not", "mmdata", [0], "", goal=0, at_most=True)
    ]
    for less, more in itertools.pairwise(options.sizes):
        growth = [b["cpu"] / a["cpu"] for a, b in zip(found[less], found[more], strict=True)]
        goal = 13.0 if more == 10 * less else None
        what = f"near-duplicate removal, time of {more:,} over {less:,}"
        claims.append(
            figure(what, "mmdata", growth, "times", goal=goal, at_most=True, headline=more == options.sizes[-1])
        )
    told |= {"brute": options.brute, "pairs": options.pairs, "checked": checked}
    write("near_dup", claims, figures={str(count): rows for count, rows in found.items()}, to=options.json, **told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
