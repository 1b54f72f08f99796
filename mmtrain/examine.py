"""Examining a running model: evaluations go to log and page, and decide which checkpoint is best and when to end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdata.shards.storage import write_atomic
from mmtrain import checkpoint
from mmtrain.distributed import first
from mmtrain.ema import swapped
from mmtrain.held_out import Found, evaluate, held_out
from mmtrain.run import EVALUATIONS, SAMPLES
from mmtrain.samples_page import render
from mmtrain.stopping import Stopping, StoppingSpec

if TYPE_CHECKING:
    from mmtrain.job import Job
    from mmtrain.run import Log


class Examiner:
    """Evaluates a job every so many steps. Raises SpecError for a metric that no evaluation has."""

    def __init__(self, job: Job, log: Log | None, evaluated: Callable[..., Found] = evaluate) -> None:
        assert job.spec.evaluation is not None, "a spec without evaluation"
        assert job.loader.dataset.family is not None, "packs have a family"
        self.told = job.spec.evaluation
        self.job = job
        self._log = log
        self._evaluated = evaluated
        self.streams = held_out(self.told, job.spec, job.loader.dataset.family, world=job.world)
        if job.world.rank == 0:
            _forget(job.folder / EVALUATIONS, job.step)
        known = first(lambda: [line for line in read(job.folder) if line["step"] == job.step], job.world)
        self._found: Found | None = None
        if known:  # a kill may have come before `mark`
            self._found = Found(values={n: v for n, v in known[-1].items() if n not in ("step", "seconds")})

    @property
    def due(self) -> bool:
        """Whether the weights as they are now are to be evaluated."""
        return self.job.step % self.told.every == 0 or self.job.step == self.job.spec.steps

    def examine(self) -> Found:
        """Evaluate the model as it is; all ranks call it together."""
        job, began = self.job, time.monotonic()
        with swapped(job, self.told.weights):
            found = self._evaluated(
                self.told,
                self.streams,
                spec=job.spec,
                model=job.model,
                tokenizer=job.tokenizer,
                strategy=job.strategy,
                world=job.world,
            )
        stopping = job.parts.get("stopping")
        if isinstance(stopping, Stopping):
            stopping.tell(stopping.value_in(found.values))
        if job.world.rank == 0:
            line = {"step": job.step, **found.values, "seconds": round(time.monotonic() - began, 3)}
            with open(job.folder / EVALUATIONS, "a") as file:
                file.write(json.dumps(line) + "\n")
            if self._log is not None:
                self._log.points(job.step, {f"held_out/{name}": value for name, value in found.values.items()})
            print("eval  " + "  ".join(f"{name} {value:.4f}" for name, value in found.values.items()), flush=True)
            if found.answers:
                (job.folder / SAMPLES).mkdir(exist_ok=True)
                page = render(f"Answers after {job.step} steps", found.values, found.answers, self.streams)
                shown = job.folder / SAMPLES / f"step-{job.step:08d}.html"
                write_atomic(shown, page)
                print(f"page   {shown}", flush=True)
        self._found = found
        return found

    def mark(self) -> None:
        """Point `best` to the checkpoint of the weights that were just examined, if they are the best so far."""
        told = self.job.spec.early_stopping or StoppingSpec()
        if self._found is not None and told.metric in self._found.values:
            value = Stopping(told).value_in(self._found.values)
            checkpoint.mark_best(self.job, told.metric, value, lower=told.mode == "min")
        self._found = None


def read(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run; `step` counts the steps that the weights had taken."""
    path = folder / EVALUATIONS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may have cut the last one


def _forget(path: Path, step: int) -> None:
    """Drop what a run that goes on after `step` will find again."""
    kept = [line for line in read(path.parent) if line["step"] <= step]
    if path.exists():
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
