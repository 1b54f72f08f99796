"""The loop: steps from the checkpoint (or the beginning) to the end, with log and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mmdata.stream.loader import Batch
from mmdata.types import World
from mmtrain import checkpoint, run
from mmtrain.distributed import first
from mmtrain.drift import Drift
from mmtrain.examine import Examiner
from mmtrain.gate import forget_quarantine
from mmtrain.held_out import Found, evaluate
from mmtrain.job import Job
from mmtrain.monitor import line, measured
from mmtrain.optim import thaw
from mmtrain.spec import TrainSpec
from mmtrain.step import Step, train_step
from mmtrain.weighting import unmet

CONSOLE_LINES = 20


def train(
    job: Job,
    start: Path | None,
    *,
    take: Callable[[Job, list[Batch]], Step] | None = None,
    evaluated: Callable[..., Found] = evaluate,
) -> None:
    """Train to the last step, from the checkpoint `start` if there is one; `take` takes a step, as `train_step` does by
    default, and `evaluated` evaluates as `mmtrain.held_out.evaluate` does. Raises RunError as `train_step` does."""
    spec, world, loader = job.spec, job.world, job.loader
    if start is not None:
        checkpoint.load(start, job, check=False)  # `open_run` has looked at every byte
        say(world, f"resume from {start}: {job.step} of {spec.steps} steps are done")
    if world.rank == 0:
        run.keep_spec(job.folder, spec)
        forget_quarantine(job.folder, job.step)
    log = run.Log(job.folder, job.step) if world.rank == 0 else None
    examiner = None if spec.evaluation is None else Examiner(job, log, evaluated)
    if examiner is not None and job.step:
        examiner.mark()
    began, done, loss, saved = time.monotonic(), job.step, math.nan, job.step
    epoch = loader.position.epoch

    try:
        for batches, waited in _timed(loader.steps()):
            if job.step >= spec.steps or job.stopped:
                break
            started = time.monotonic()
            result = advance(job, batches, take or train_step)
            values = measured(job, result, batches, waited=waited, seconds=time.monotonic() - started)
            if isinstance(drift := job.parts.get("drift"), Drift) and drift.due(job.step + 1):
                values["drift/vision"] = drift.measure()
            if log is not None:
                log.write(values)
            loss = result.loss
            if job.step % max(1, spec.steps // CONSOLE_LINES) == 0 or job.step + 1 == spec.steps:
                say(world, line(values))
            job.step += 1
            if epoch == 0 < loader.position.epoch and job.step < spec.steps:
                _tell_tasks(job, "of the first epoch")
            epoch = loader.position.epoch
            if examiner is not None and examiner.due:
                examiner.examine()
            if job.step % spec.checkpoint.every == 0 or job.step == spec.steps:
                checkpoint.save(job)
                saved = job.step
            if examiner is not None:
                examiner.mark()
            if job.step == spec.steps or job.stopped:
                break
        if job.stopped:
            say(world, f"stopped after {job.step} steps: no evaluation was better for too long (early_stopping)")
        elif done < job.step < spec.steps:
            say(world, f"the stream ended after {job.step} steps (data.epochs: {spec.data.epochs})")
            if examiner is not None and not examiner.due:
                examiner.examine()
        if job.step > saved:
            checkpoint.save(job)
        if examiner is not None:
            examiner.mark()
        first(lambda: run.finish(job.folder, job.step), world)  # not reached by what stops a run before its end
    finally:
        if log is not None:
            log.close()
    if job.step == done:
        say(world, f"nothing left to do: {done} of {spec.steps} steps were done before")
    elif log is not None:
        seconds, steps = time.monotonic() - began, job.step - done
        first_loss = math.nan if log.first is None else log.first
        print(f"done   {steps} steps in {seconds:.1f} s; loss {first_loss:.4f} -> {loss:.4f}; run folder {job.folder}")
    if job.gate.empty and job.step > done:
        say(world, f"empty  {job.gate.empty} of {job.step} steps had no target of any weight and moved nothing")
    if job.step > done:
        _tell_tasks(job, f"of {job.step} steps")
    if loader.bad and job.step > done:
        print(f"masked {sum(loader.bad.values())} samples that could not be read: {dict(loader.bad)}")


def advance(job: Job, batches: list[Batch], take: Callable[[Job, list[Batch]], Step] = train_step) -> Step:
    """Take step `job.step` with what is trained then; the caller counts it. Raises RunError as `train_step` does."""
    job.model.train()
    if job.staged:
        thaw(job.model, job.settings, job.step / job.spec.steps)
    return take(job, batches)


def _tell_tasks(job: Job, where: str) -> None:
    met, spec = job.gate.tasks, job.spec
    if met is not None and isinstance(spec, TrainSpec) and (told := unmet(spec.task_weights, met, where)):
        say(job.world, told)


def say(world: World, line: str) -> None:
    """A line on the console, from one rank."""
    if world.rank == 0:
        print(line, flush=True)


def _timed(steps: Iterator[list[Batch]]) -> Iterator[tuple[list[Batch], float]]:
    """Each step's batches, and the seconds that the model waited for them."""
    while True:
        started = time.monotonic()
        batches = next(steps, None)
        if batches is None:
            return
        yield batches, time.monotonic() - started
