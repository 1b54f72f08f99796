"""Where to decode: threads of the trainer's process, threads of one subprocess, or DataLoader workers; alone and beside
a trainer.

`python -m benchmarks.stream_workers [--count 96] [--rounds 5] [--threads 2]`. JPEGs of 0.2 to 4 megapixels from our
shards to 224 x 224 floats in batches of 4, by `StreamLoader` (`workers=0`, `workers=1`) and by torch's `DataLoader`
over the same `StreamingDataset`, each with as many threads or workers, in a process of its own, passes taking turns.
The trainer is a small convolutional network on one thread of the CPU that after each step runs Python, as
loops, logging and hooks do, and so holds the interpreter. `steps` are a second, from the end of the first step on;
`waits` is the share of that time in which the trainer waits for a batch; `CPU ms` is of a picture, in all processes of
the contender, the trainer's too. Workers are started once, before. Ratios are of the same round.

Last comes what `StreamLoader.stats()` costs: each call that counts is timed by itself, times how often a batch makes
it, over the CPU time of a batch.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from benchmarks import _options
from benchmarks._interleaved import Row, race, ratio, summary
from benchmarks.claims import beside, figure, write
from mmdata import StreamingDataset, StreamLoader
from mmdata.stream.stats import Spent, Tally
from mmdata.stream.viewed import Viewed, stack
from mmdata.views.fixed import Fixed

SIDE, BATCH, AHEAD = 224, 4, 4
HELD = 400_000
"""Additions in Python that a step of the trainer makes."""
FLOOR = "threads here"
"""What the others are compared with: `workers=0`."""
TIMED = 20_000
"""Calls of which the time of one is taken."""


class Pixels(IterableDataset[torch.Tensor]):
    """The stream with its transform, for workers that do not know of transforms."""

    def __init__(self, stream: StreamingDataset, viewed: Viewed) -> None:
        self.stream = stream
        self.viewed = viewed

    def __iter__(self) -> Iterator[Any]:
        return (self.viewed(sample) for sample in self.stream)  # type: ignore[arg-type]


def stream(root: Path) -> StreamingDataset:
    return StreamingDataset(str(root / "dataset"), yields="raw")


def own(root: Path, threads: int, workers: int) -> StreamLoader:
    viewed = Viewed(Fixed(size=SIDE, mode="squash"))
    return StreamLoader(
        stream(root), stack, transform=viewed, batch_size=BATCH, threads=threads, workers=workers, ahead=AHEAD
    )


def dataloader(root: Path, threads: int) -> Iterable[Any]:
    return DataLoader(
        Pixels(stream(root), Viewed(Fixed(size=SIDE, mode="squash"))),
        batch_size=BATCH,
        collate_fn=stack,
        num_workers=threads,
        prefetch_factor=AHEAD // threads,
        persistent_workers=True,
    )


LOADERS: dict[str, Callable[[Path, int], Iterable[Any]]] = {
    FLOOR: lambda root, threads: own(root, threads, 0),
    "one subprocess": lambda root, threads: own(root, threads, 1),
    "DataLoader workers": dataloader,
}
TRAINER = "trainer alone"
MODULE = "benchmarks.stream_workers"
"""With a contender's name, a folder and threads, it is that contender's process."""


class Trainer:
    """A step that keeps one core busy, first in torch without the interpreter, then with it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 32, 8, stride=4),
            torch.nn.GELU(),
            torch.nn.Conv2d(32, 64, 3, stride=2),
            torch.nn.GELU(),
            torch.nn.Conv2d(64, 64, 3, stride=2),
            torch.nn.GELU(),
            torch.nn.Flatten(),
            torch.nn.LazyLinear(16),
        )

    def __call__(self, pixels: torch.Tensor) -> None:
        loss = self.model(pixels).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in self.model.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=1e-4)
                parameter.grad = None
        held = 0
        for number in range(HELD):
            held += number
        assert held == HELD * (HELD - 1) // 2


def tensor(batch: Any) -> torch.Tensor:
    """What `stack` made, as the trainer's input."""
    found: torch.Tensor = batch if isinstance(batch, torch.Tensor) else batch["pixel_values"]
    return found


def cpu_seconds() -> float:
    """Of this process and of all that it has started, however deep, and that still run."""
    ticks, parents = dict[int, int](), dict[int, int]()
    for entry in os.listdir("/proc"):
        try:
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split() if entry.isdigit() else []
        except OSError:  # it has just ended
            continue
        if fields:
            parents[int(entry)], ticks[int(entry)] = int(fields[1]), int(fields[11]) + int(fields[12])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(ticks[pid] for pid in ours) / os.sysconf("SC_CLK_TCK")


def a_pass(batches: Iterable[Any], step: Callable[[torch.Tensor], None] | None) -> Row:
    """One pass over all batches; the trainer's wait is that for `next`."""
    used, began = cpu_seconds(), time.perf_counter()
    waited = first = start = 0.0
    steps = pictures = 0
    coming = iter(batches)
    while True:
        asked = time.perf_counter()
        batch = next(coming, None)
        if batch is None:
            break
        now = time.perf_counter()
        pixels = tensor(batch)
        pictures += len(pixels)
        if step is not None:
            step(pixels)
        if steps:
            waited += now - asked
        else:
            first, start = now - began, time.perf_counter()
        steps += 1
    end = time.perf_counter()
    return {
        "pictures": pictures,
        "first": first,
        "seconds": end - began,
        "steps_rate": (steps - 1) / (end - start),
        "waits": waited / (end - start),
        "cpu_ms": 1e3 * (cpu_seconds() - used) / pictures,
    }


def contend(name: str, root: Path, threads: int) -> None:
    """One pass for each line that is read: `alone COUNT` or `beside COUNT`."""
    torch.set_num_threads(1)
    trainer = Trainer()
    loader = None if name == TRAINER else LOADERS[name](root, threads)
    for line in sys.stdin:
        how, count = line.split()
        batches = [torch.rand(BATCH, 3, SIDE, SIDE)] * (int(count) // BATCH) if loader is None else loader
        row = a_pass(batches, trainer if how == "beside" else None)
        assert row["pictures"] == int(count), row
        print(json.dumps(row), flush=True)


def counting_cost(loader: StreamLoader) -> dict[str, float]:
    """What counting takes of a pass with threads of this process: calls of a batch, their CPU microseconds, and their
    share (0 to 1) of the CPU time of the batch."""
    calls = Counter[str]()
    counted: list[tuple[type, str]] = [(Spent, "lap"), (Spent, "count"), (Spent, "add"), (Tally, "took")]
    original = {(kind, name): getattr(kind, name) for kind, name in counted}

    def heard(kind: type, name: str) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            calls[name] += 1
            return original[kind, name](*given)

        return call

    try:
        for kind, name in counted:
            setattr(kind, name, heard(kind, name))
        batches = sum(1 for _ in loader)
    finally:
        for (kind, name), method in original.items():
            setattr(kind, name, method)
    used = time.process_time()
    assert sum(1 for _ in loader) == batches
    batch = (time.process_time() - used) / batches
    spent, other, tally = Spent(), Spent(), Tally(threads=2, ahead=AHEAD)
    other.seconds = {"read": 1.0, "decode": 1.0, "collate": 1.0}
    done = [Future[None]() for _ in range(AHEAD)]
    each = {
        "lap": timed(lambda: spent.lap("read")),
        "count": timed(lambda: spent.count("plan", 1e-6)),
        "add": timed(lambda: spent.add(other)),
        "took": timed(lambda: tally.took(time.perf_counter(), sum(future.done() for future in done))),
    }
    counting = sum(calls[name] * seconds for name, seconds in each.items()) / batches + timed(Spent)
    return {
        "calls": calls.total() / batches,
        "us": 1e6 * counting,
        "batch_ms": 1e3 * batch,
        "share": counting / batch,
        "stats_us": 1e6 * timed(tally.stats, TIMED // 10),
    }


def timed(call: Callable[[], Any], count: int = TIMED) -> float:
    """CPU seconds of one call."""
    began = time.thread_time()
    for _ in range(count):
        call()
    return (time.thread_time() - began) / count


def table(found: dict[str, list[Row]]) -> None:
    print(f"{'':22}{'steps a second: median (min-max)':>36}{'waits':>8}{'CPU ms':>8}{'of ' + FLOOR:>24}")
    for name, rows in found.items():
        middle, least, most = summary(rows, "steps_rate")
        waits, used = summary(rows, "waits")[0], summary(rows, "cpu_ms")[0]
        share, low, high = ratio(rows, found[FLOOR], "steps_rate")
        print(
            f"{name:22}{middle:16.2f} ({least:.2f}-{most:.2f})".ljust(58)
            + f"{waits:8.1%}{used:8.1f}{share:12.2f} ({low:.2f}-{high:.2f})"
        )


def main() -> int:
    parser = _options.parser(__doc__)
    parser.add_argument("--count", type=int, default=96, help="photographs of a pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = _options.parse(parser, count=48, rounds=3)
    from benchmarks.stream_decoded import prepare  # contenders need not wait for what it imports

    count, threads = arguments.count - arguments.count % BATCH, str(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        prepare(root, count, arguments.threads)

        def pace(names: list[str], how: str) -> tuple[dict[str, list[Row]], dict[str, str]]:
            return race(names, MODULE, root, str(root), threads, line=f"{how} {count}", count=arguments.rounds)

        alone, failed = pace(list(LOADERS), "alone")
        beside_it, failed_beside = pace([*LOADERS, TRAINER], "beside")
        torch.set_num_threads(1)
        cost = counting_cost(own(root, arguments.threads, 0))
    failed |= failed_beside
    print(f"{count} photographs in batches of {BATCH}, {threads} threads or workers, {arguments.rounds} rounds")
    for title, found in (("alone", alone), ("beside a trainer", beside_it)):
        print(f"\n{title}")
        if FLOOR in found:
            table(found)
    print(
        f"\nstats(): {cost['calls']:.0f} calls and {cost['us']:.0f} us a batch of {cost['batch_ms']:.1f} ms (CPU): "
        f"{cost['share']:.3%}; stats() itself {cost['stats_us']:.0f} us"
    )
    claims = [
        beside(f"photographs to batches, {title}", found, FLOOR, other, by="steps_rate", missing=failed, floor=not peer)
        for title, found in (("alone", alone), ("beside a trainer", beside_it))
        for other, peer in (("one subprocess", False), ("DataLoader workers", True))
    ]
    share = 100 * cost["share"]
    claims.append(figure("counting for stats(), of a batch's CPU time", "ours", [share], "%", goal=1.0, at_most=True))
    rows = {"alone": alone, "beside": beside_it, "stats_cost": cost}
    told = {"count": count, "batch": BATCH, "to": arguments.json, "peers": {"torch": torch.__version__}}
    write("stream_workers", claims, figures=rows, missing=failed, threads=arguments.threads, **told)
    return 0


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in (*LOADERS, TRAINER):
        contend(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
        sys.exit()
    sys.exit(main())
