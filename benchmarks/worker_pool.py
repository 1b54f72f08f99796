"""Threads or processes for the steps of a build: the same pictures through `probe` and `resize`, two ways.

    python -m benchmarks.worker_pool [--pictures 200] [--rounds 5]

Threads would share one process and save the hand-over; decoding, hashing and resizing release the GIL. Processes can be
killed when a decoder hangs and survive its crash, which threads cannot. Printed: pictures per second of both, in
interleaved rounds, and their ratio.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
from pathlib import Path

from benchmarks import _options, _photos
from benchmarks._interleaved import Row, table
from benchmarks.claims import beside, write
from mmdata.decode.work import Work
from mmdata.engine.pool import Pool
from mmdata.engine.worker import Job, Setup, run_steps
from mmdata.spec import StepSpec
from mmdata.steps.probe import Probe
from mmdata.steps.resize import Resize
from mmdata.types import Media, Origin, Sample

STEPS: tuple[StepSpec, ...] = (Probe(), Resize(mode="shortest", size=256))


def threads(samples: list[Sample], workers: int) -> float:
    local = threading.local()

    def one(sample: Sample) -> None:
        if not hasattr(local, "work"):
            local.work = Work.for_steps(STEPS)
        assert run_steps(sample, STEPS, local.work).sample is not None
        local.work.clear()

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, samples[: 2 * workers]))  # warm
        started = time.perf_counter()
        list(pool.map(one, samples))
        return len(samples) / (time.perf_counter() - started)


def processes(samples: list[Sample], workers: int) -> float:
    async def run() -> float:
        setup = Setup(plugins=(), steps=tuple(step.model_dump() for step in STEPS))
        pool = Pool(setup, workers=workers, seconds=30)
        try:
            await asyncio.gather(*(pool.run(Job(unit=0, sample=sample)) for sample in samples[: 2 * workers]))
            started = time.perf_counter()
            await asyncio.gather(*(pool.run(Job(unit=0, sample=sample)) for sample in samples))
            return len(samples) / (time.perf_counter() - started)
        finally:
            pool.close()

    return asyncio.run(run())


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = _options.parse(parser, pictures=80)
    folder = Path(__file__).parent / "data" / "photos" / "images"
    _photos.write(folder, arguments.pictures)
    files = sorted(folder.glob("*.jpg"))[: arguments.pictures]
    samples = [
        Sample(
            key=f"{at:09d}", parts=(Media(kind="image", data=file.read_bytes()),), origin=Origin(uri=file.name, row=at)
        )
        for at, file in enumerate(files)
    ]
    workers = len(os.sched_getaffinity(0))
    found: dict[str, list[Row]] = {"threads": [], "processes": []}
    for _ in range(arguments.rounds):
        found["threads"].append({"rate": threads(samples, workers)})
        found["processes"].append({"rate": processes(samples, workers)})
    print(f"{len(samples)} pictures, {workers} workers, pictures a second")
    table(found)
    what = "probe and resize of photographs, wall time"
    claim = beside(what, found, "processes", "threads", by="rate", name="threads of one process", floor=True)
    write("worker_pool", [claim], figures=found, threads=workers, to=arguments.json)


if __name__ == "__main__":
    main()
