"""What a run says of each step, all ranks together: losses, rates, norms, tokens, seconds, balance, memory."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import crc32c
import torch

from mmdata.stream.cost import loads
from mmdata.stream.loader import Batch
from mmtrain.distributed import sums
from mmtrain.flops import peak, train_flops

if TYPE_CHECKING:
    from mmtrain.job import Job
    from mmtrain.step import Step

MEASURED = ("seconds/", "speed/", "memory/", "balance/", "mfu")
"""How the names of values begin that depend on the machine, or on how many ranks there are."""


@dataclass(slots=True)
class Monitor:
    """What is measured while a step is taken: `lap` gives all seconds since the last lap to a name."""

    seconds: dict[str, float] = field(default_factory=dict)
    _at: float = field(default_factory=time.perf_counter)
    _decoded: float = 0.0

    def start(self) -> None:
        """Begin a step."""
        self.seconds = {}
        self._at = time.perf_counter()

    def lap(self, name: Literal["compute", "sync"]) -> None:
        """All since the last lap was spent on `name`. Work that a GPU was given is waited for first."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._at
        self._at = now

    def decoded(self, total: float) -> float:
        """Seconds of decoding since the last call, of the `total` since the loader began."""
        before, self._decoded = self._decoded, total
        return max(0.0, total - before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of rows by what they are: total = real + padding, real = text + media; targets are some of the text."""

    total: int = 0
    real: int = 0
    text: int = 0
    media: int = 0
    padding: int = 0
    target: int = 0


def tokens(batches: Iterable[Batch]) -> Tokens:
    """What the rows of batches hold. Dummies, which keep a rank in step, are not counted."""
    mine = [batch for batch in batches if batch["keys"]]
    total = sum(batch["input_ids"].numel() for batch in mine)
    padding = sum(batch["padding"] for batch in mine)
    media = sum(batch["media_tokens"] for batch in mine)
    return Tokens(
        total=total,
        real=total - padding,
        text=total - padding - media,
        media=media,
        padding=padding,
        target=sum(batch["targets"] for batch in mine),
    )


def rates(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The learning rate of each group of an optimiser, by part; a part with several rates has them numbered, the
    fastest first.

    >>> rates([{"part": "vision", "lr": 0.1}, {"part": "vision", "lr": 0.2}, {"part": "head", "lr": 0.3}])
    {'lr/vision.0': 0.2, 'lr/vision.1': 0.1, 'lr/head': 0.3}
    """
    parts: dict[str, set[float]] = {}
    for group in groups:
        parts.setdefault(group.get("part", "all"), set()).add(group["lr"])
    result = {}
    for part, found in parts.items():
        for number, rate in enumerate(sorted(found, reverse=True)):
            result[f"lr/{part}" if len(found) == 1 else f"lr/{part}.{number}"] = rate
    return result


def measured(job: Job, result: Step, batches: list[Batch], *, waited: float, seconds: float) -> dict[str, Any]:
    """What the log says of step `job.step`, whose batches were `waited` for, and which took `seconds`. A call of all
    ranks, which all get the same: counts are sums over ranks, seconds are means.

    `seconds/load` is what the model waited for data, `seconds/decode` what the loader's threads spent on decoding
    behind it; `speed/*` are tokens per second of all that. `keys_crc32c` is the sum of the checksums of all samples'
    keys, the same however they were dealt. `balance/*` is the most over the mean of what ranks had to do: by the
    stream's costs (`predicted`), and in seconds of computing (`actual`)."""
    world, spent = job.world, job.monitor.seconds
    keys = [key for batch in batches for key in batch["keys"]]
    mine = tokens(batches)
    compute = spent.get("compute", 0.0)
    counts = [
        sum(batch["packs"] for batch in batches),
        len(keys),
        mine.total,
        mine.media,
        mine.padding,
        mine.target,
        sum(job.loader.bad.values()),
        sum(crc32c.crc32c(key.encode()) for key in keys),
    ]
    times = [
        waited,
        job.monitor.decoded(job.loader.stats().busy.get("decode", 0.0)),
        compute,
        spent.get("sync", 0.0),
        seconds,
    ]
    cost = sum(float(each) for each in _costs(job))
    rank = [[part if rank == world.rank else 0.0 for rank in range(world.ranks)] for part in (cost, compute)]
    rss, cuda = _memory()
    able = peak(torch.cuda.get_device_name()) if torch.cuda.is_initialized() else None
    flops = [math.nan if able is None else sum(_flops(job, batch) for batch in batches)]
    *summed, done = sums([*counts, *times, *rank[0], *rank[1], rss, cuda, *flops], world)
    packs, samples, total, media, padding, target, masked, checksum = summed[: len(counts)]
    load, decode, compute, sync, step = (each / world.ranks for each in summed[len(counts) :][: len(times)])
    predicted, actual = summed[-2 * world.ranks - 2 : -world.ranks - 2], summed[-world.ranks - 2 : -2]
    real, whole = total - padding, max(load + step, 1e-9)
    values: dict[str, Any] = {
        "step": job.step,
        "loss": result.loss,
        **{f"loss/{task}": loss / weight for task, (loss, weight) in result.tasks.items() if weight},
        **{f"weight/{task}": weight for task, weight in result.task_weights.items()},
        **{f"aux/{name}": mean for name, mean in result.terms.items()},
        **result.values,
        "lr": max(group["lr"] for group in job.optim.param_groups),
        "grad_norm": result.grad_norm,
        **{f"grad_norm/{part}": norm for part, norm in result.norms.items()},
        **rates(job.optim.param_groups),
        "packs": int(packs),
        "samples": int(samples),
        "tokens": int(total),
        "tokens_real": int(real),
        "tokens_text": int(real - media),
        "tokens_media": int(media),
        "tokens_padding": int(padding),
        "targets": int(target),
        "fill": round(real / total, 6) if total else 1.0,
        "masked": int(masked),
        "skipped": result.skipped,
        "skipped_steps": job.gate.skipped,
        "empty_steps": job.gate.empty,
        "keys_crc32c": f"{int(checksum) % 2**32:08x}",
    }
    clocked = {
        "seconds/load": load,
        "seconds/decode": decode,
        "seconds/compute": compute,
        "seconds/sync": sync,
        "seconds/step": step,
        "speed/total": total / whole,
        "speed/real": real / whole,
        "speed/media": media / whole,
        "speed/padding": padding / whole,
        "speed/target": target / whole,
        "balance/predicted": most_over_mean(predicted),
        "balance/actual": most_over_mean(actual),
        "memory/rss_mib": summed[-2],
        "memory/cuda_mib": summed[-1],
    }
    if able is not None and math.isfinite(done):  # a tower whose arithmetic is not known: nothing is said
        clocked |= {"speed/tflops": done / whole / 1e12, "mfu": done / (whole * able * world.ranks)}
    return values | {name: round(value, 4) for name, value in clocked.items()}


def most_over_mean(values: Sequence[float]) -> float:
    """1 is perfect balance, also of nothing at all.

    >>> most_over_mean([3.0, 1.0]), most_over_mean([0.0, 0.0])
    (1.5, 1.0)
    """
    mean = sum(values) / len(values)
    return max(values) / mean if mean > 0 else 1.0


def line(values: Mapping[str, Any]) -> str:
    """A step on the console."""
    told = f"step {values['step']:5d}  loss {values['loss']:7.4f}  lr {values['lr']:.2e}  |g| {values['grad_norm']:.2f}"
    told += f"  {values['speed/real']:,.0f} tok/s  fill {values['fill']:.0%}  wait {values['seconds/load']:.2f} s"
    if values["skipped"]:
        told += f"  SKIPPED: {values['skipped'].replace('_', ' ')}"
    return told


def steady(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the values of a step those that the same run has again, whatever machines and however many it has."""
    return {name: value for name, value in values.items() if not name.startswith(MEASURED)}


def _costs(job: Job) -> list[float]:
    """What each pack of this rank's step costs, as the stream has it."""
    dealt = [each.pack.cost for each in job.loader.dealt if each.pack is not None]
    return list(loads(dealt, job.spec.data.costs)[:, 0].tolist())


def _flops(job: Job, batch: Batch) -> float:
    found = train_flops(job.model, batch)
    return math.nan if found is None else found


def _memory() -> tuple[float, float]:
    """Peaks so far of this process, in MiB: resident, and allocated on its GPU."""
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 10)  # KiB on Linux
    return resident, torch.cuda.max_memory_allocated() / (1 << 20) if torch.cuda.is_initialized() else 0.0
