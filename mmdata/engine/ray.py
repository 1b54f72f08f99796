"""The Ray engine: tasks on a cluster fetch and map units, this process commits them in order.

A task makes the file of `mmdata.engine.mapped` and returns its bytes, so nodes need no common file system but for a
source that lies in files. Ray itself runs a task again whose node is lost, and spills what waits for its turn to disk.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmdata import registry, specfile
from mmdata.engine import binding, local, mapped, shares
from mmdata.engine.local import Unit
from mmdata.engine.ordered import OrderedSteps
from mmdata.engine.shares import Share
from mmdata.engine.spool import Memory
from mmdata.errors import DataError, RunError, SpecError
from mmdata.shards.storage import write_atomic
from mmdata.spec import BuildSpec

RETRIES = 20
"""Times that a task is run again after its node or process was lost."""


def units(
    spec: BuildSpec,
    folder: Path,
    first: int,
    start: int,
    *,
    listings: list[dict[str, int]],
    halted: threading.Event,
) -> Iterator[Unit]:
    """The units of a build from `first` on, which begins with input row `start`, in order, mapped on the cluster at
    `engine.address`, or on one of this machine alone. At most as many wait or run as the cluster has cores, and two;
    `halted` ends it between two units. `listings` arrange the source (`mmdata.engine.binding`).

    Raises SpecError where Ray is not installed or not reached, RunError where a task fails for good, and what a local
    build raises.
    """
    ray = _started(spec)
    try:
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        data = shares.fair(spec, Share(0, cores)).model_dump(mode="json")
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(map_unit)
        ahead: deque[tuple[int, Any]] = deque()
        arranged = ray.put(listings)
        number = first
        while not halted.is_set():
            while len(ahead) < cores + 2:
                row = start + (number - first) * spec.output.unit_rows
                ahead.append((number, task.options(name=f"unit {number}").remote(data, number, row, arranged)))
                number += 1
            done, reference = ahead[0]
            if not ray.wait([reference], timeout=0.5)[0]:
                continue
            ahead.popleft()
            made = _result(ray, reference, done)
            del reference  # the cluster keeps a result as long as anyone knows its name
            if made is None:
                return
            place = mapped.place(folder, done)
            place.parent.mkdir(exist_ok=True)
            write_atomic(place, made)
            yield mapped.read(folder, done)
    finally:
        ray.shutdown()


def _started(spec: BuildSpec) -> Any:
    try:
        import ray
    except ImportError:
        raise SpecError("engine.kind: ray needs Ray: pip install 'mmdata[ray]'") from None
    _reach(spec.engine.address)
    try:
        ray.init(address=spec.engine.address, log_to_driver=False, ignore_reinit_error=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())[:300]
        raise SpecError(f"engine.address: {spec.engine.address}: no Ray cluster there: {told}") from error
    return ray


def _reach(address: str | None) -> None:
    """Raises SpecError where nobody listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise SpecError(f"engine.address: {address}: no Ray cluster there: {error}") from error


def _result(ray: Any, reference: Any, number: int) -> bytes | None:
    try:
        made: bytes | None = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SpecError | DataError | RunError):
            raise error.cause from None
        raise RunError(f"unit {number}: {error.cause or error}") from error
    except ray.exceptions.RayError as error:
        told = " ".join(str(error).split())[:300]
        raise RunError(f"unit {number} was lost {RETRIES} times: {told}; run again to go on") from error
    return made


def map_unit(data: dict[str, Any], number: int, start: int, listings: list[dict[str, int]]) -> bytes | None:
    """Fetch and map one unit, which begins with input row `start`, in this process and return its file; None where the
    source has no such rows. `data` is the spec as JSON, its paths absolute."""
    for plugin in data["plugins"]:
        registry.load_plugin(plugin)
    spec = specfile.build_model(data).model_validate(data)
    spec = spec.model_copy(update={"engine": spec.engine.model_copy(update={"workers": 1})})
    stop = min(start + spec.output.unit_rows, spec.limit) if spec.limit is not None else start + spec.output.unit_rows
    source = spec.source.open()
    binding.arrange(source, listings)
    records = source.records(start, stop)
    one = next(records, None)
    if one is None:
        return None
    with tempfile.TemporaryDirectory(prefix="mmdata-unit-") as aside:
        folder = Path(aside)
        (folder / ".build" / "staging").mkdir(parents=True)
        (folder / mapped.FOLDER).mkdir()
        work = local.run(
            spec,
            iter([(number, itertools.chain([one], records))]),
            folder=folder,
            ordered=OrderedSteps(spec),
            commit=_never,
            on_row=_never,
            stop=asyncio.Event(),
            memory=Memory(spec.engine.memory_mib * (1 << 20) // 2),
            hand_over=functools.partial(mapped.write, folder),
        )
        asyncio.run(work)
        return mapped.place(folder, number).read_bytes()


def _never(*_: object) -> None:
    """What the driver does later: a unit that is handed over is neither committed nor counted here."""
