"""The soak: kills, damaged media and a failing web; what was lost, came twice or went unseen, printed by one command.

    python -m mmdata.testing.soak                                # 240 kills, 10,000 damaged media, all faults of a web
    python -m mmdata.testing.soak --cycles 24 --media 1000       # less of it
    python -m mmdata.testing.soak --minutes 30 --json            # as far as half an hour goes; run it again to go on
    python -m mmdata.testing.soak --only build stream            # parts of it

A build, a reader of packs and a trainer are killed with SIGKILL at moments that the seed draws, and started again, the
build on other numbers of workers, the reader on other ranks and workers. Each must end as if nobody had killed it: the
same bytes, the same packs, the same losses and weights. Damaged media arrive at a build, and take the places of media
in a finished dataset. A web of every kind of HTTP fault is built from, and again once it has recovered.

The exit code is 0 if nothing was lost, came twice or went unseen; 1 if anything did; 3 if the minutes were over first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mmdata import unread
from mmdata.rng import generator
from mmdata.testing.kill import preload
from mmdata.testing.soak import kills, links, media
from mmdata.testing.soak.figures import Figures, Tally, opened

CYCLES, MEDIA = 240, 10_000
SHARES = {"build": 0.4, "stream": 0.4, "trainer": 0.2}
"""Of the kills."""
PARTS = ("web", "media", *SHARES)
ROUND_KILLS, ROUND_MEDIA = 12, 1000
Work = tuple[str, Callable[[Tally], None]]


def rounds(folder: Path, figures: Figures, slow: bool, only: Sequence[str]) -> Iterator[Work]:
    """What is still to do, a bounded piece at a time, the parts in turn."""
    seed = figures.told["seed"]
    if "web" in only and not figures.part("web").rounds:
        yield "web", partial(links.web, folder / "web", slow=slow)
    left = True
    while left:
        left = False
        if "media" in only and (count := min(ROUND_MEDIA, figures.told["media"] - figures.part("media").done)) > 0:
            left = True
            yield "media", partial(_media, folder, count, seed)
        for name, share in SHARES.items():
            goal, tally = max(1, round(share * figures.told["cycles"])), figures.part(name)
            if name in only and figures.told["cycles"] and (count := min(ROUND_KILLS, goal - tally.done)) > 0:
                left = True
                drawn = int(generator(seed, name, tally.rounds).integers(1 << 30))
                yield name, partial(getattr(kills, name), folder, kills=count, seed=drawn)


def _media(folder: Path, count: int, seed: int, tally: Tally) -> None:
    media.at_rest(kills.undisturbed(folder), folder / "at-rest", tally, count, seed)
    media.arriving(folder / "arriving", tally, count, seed)
    tally.done += count


def soak(
    folder: Path,
    figures: Figures,
    *,
    minutes: float = float("inf"),
    slow: bool = True,
    quiet: bool = False,
    only: Sequence[str] = PARTS,
) -> bool:
    """Do what is left of the parts, and save the figures after each round; whether all was done within the minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # losses are equal to the last bit only under equal sums
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    # The server that forks the commands has imported them; mmtrain by its name, for mmdata does not know it.
    preload("mmdata.build", "mmdata.testing.reading", *(["mmtrain.sft"] if "trainer" in only else []))
    deadline = time.monotonic() + 60 * minutes
    for name, work in rounds(folder, figures, slow, only):
        if time.monotonic() > deadline:
            return False
        tally, started = figures.part(name), time.monotonic()
        try:
            work(tally)
        except (RuntimeError, TimeoutError) as error:  # a command that fails by itself
            tally.problem(f"{name}: {error}")
            figures.save(folder)
            return True
        tally.rounds += 1
        tally.seconds += time.monotonic() - started
        figures.save(folder)
        if not quiet:
            print(f"{name:8} {tally.done:6,} done, {tally.failed} failed, {tally.seconds:.0f} s", flush=True)
    return True


def text(figures: Figures) -> str:
    """The figures as lines: one per part, then what must be nothing."""
    parts = figures.parts
    lines = [f"kill/resume cycles         {figures.cycles:,}"]
    for name, what in (("build", "of a build"), ("stream", "of a reader of packs"), ("trainer", "of a trainer")):
        if tally := parts.get(name):
            ends = f"{tally.counts.get('starts', 0):,} starts, {tally.counts.get('finished', 0):,} ends compared"
            lines.append(f"  {what:<25}{tally.done:,}  ({ends})")
    if tally := parts.get("media"):
        counts = tally.counts
        lines.append(f"damaged media              {tally.done:,}")
        lines.append(
            f"  arriving at a build      {counts.get('arrived', 0):,}  ({counts.get('refused', 0):,} refused by name, "
            f"{counts.get('kept', 0):,} kept that decode to their facts, {counts.get('whole', 0):,} of them undamaged)"
        )
        lines.append(f"  in a finished dataset    {counts.get('detected_at_rest', 0):,} detected")
    if tally := parts.get("web"):
        counts = tally.counts
        lines.append(
            f"kinds of HTTP fault        {tally.done}  ({counts.get('links', 0)} links, {counts.get('requests', 0):,} "
            "requests, failing and healed)"
        )
    lines += [f"{name:<27}{figures.sum(name):,}" for name in ("losses", "duplicates")]
    lines.append(f"{'undetected corruptions':<27}{figures.sum('undetected'):,}")
    lines.append(f"{'seconds':<27}{figures.sum('seconds'):,.0f}")
    return "\n".join([*lines, *(problem for tally in parts.values() for problem in tally.problems)])


@unread.goes_on
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.testing.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cycles", type=int, default=CYCLES, help=f"kills of build, reader and trainer ({CYCLES})")
    parser.add_argument("--media", type=int, default=MEDIA, help=f"damaged media ({MEDIA:,})")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so many")
    parser.add_argument("--seed", type=int, default=0, help="all damage and all moments follow from it (0)")
    parser.add_argument("--folder", type=Path, default=Path("soak"), help="where it works, and goes on (soak)")
    parser.add_argument("--fast", action="store_true", help="leave out HTTP faults that end only at deadlines")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts of it (all)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON, without progress")
    told = parser.parse_args(argv)
    folder = told.folder.absolute()
    try:
        figures = opened(folder, {"seed": told.seed, "cycles": told.cycles, "media": told.media})
    except ValueError as error:
        parser.error(str(error))
    complete = soak(folder, figures, minutes=told.minutes, slow=not told.fast, quiet=told.json, only=told.only)
    print(json.dumps(asdict(figures) | {"complete": complete}, indent=1) if told.json else text(figures))
    return 1 if figures.sum("losses") + figures.sum("duplicates") + figures.sum("undetected") else 0 if complete else 3


if __name__ == "__main__":
    sys.exit(main())
