"""The gate before a step: what is not finite, or leaps, moves no weight; its samples are written down for `replay`."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

from torch import distributed

from mmdata.errors import RunError
from mmdata.shards.storage import write_atomic
from mmdata.types import World
from mmtrain.distributed import sums
from mmtrain.watch import WatchSpec

QUARANTINE = "quarantine.jsonl"
"""In the run's folder: a line for each rank of each step that was skipped."""
Reason = Literal["loss_not_finite", "gradient_not_finite", "loss_spike"]
REASONS: tuple[Reason, ...] = ("loss_not_finite", "gradient_not_finite", "loss_spike")
"""By weight: a step that has several reasons is told by the first."""


class Gate:
    """Judges steps; `state_dict` is JSON, and a gate that goes on from it judges exactly as this one would."""

    def __init__(self, spec: WatchSpec) -> None:
        self.spec = spec
        self.losses: deque[float] = deque(maxlen=spec.spike.window if spec.spike else 0)
        """Of the last steps that were taken."""
        self.skipped = self.in_a_row = self.empty = 0
        """Steps left out so far; of these, the last ones in a row; steps that had no target."""
        self.tasks: set[str] | None = set()
        """Tasks that the run's samples were of, where some are weighed; None where an older version began to count."""

    def judge(self, loss: float, grad_norm: float, world: World) -> Reason | None:
        """Why this step must not be taken; None for a step that may. `loss` and `grad_norm` are the whole step's; all
        ranks answer alike, also where only one of them sees the fault."""
        spike = self.spec.spike
        leaps = spike is not None and len(self.losses) == spike.window and loss > spike.factor * median(self.losses)
        seen = [not math.isfinite(loss), not math.isfinite(grad_norm), leaps]
        agreed = sums([float(each) for each in seen], world)
        reason = next((reason for reason, count in zip(REASONS, agreed, strict=True) if count), None)
        if reason is None:
            self.in_a_row = 0
            self.losses.append(loss)
        else:
            self.skipped += 1
            self.in_a_row += 1
        return reason

    def meet(self, tasks: Iterable[str]) -> None:
        """Samples of these tasks have come."""
        if self.tasks is not None:
            self.tasks.update(tasks)

    def check(self, reason: Reason, step: int, keys: Sequence[str]) -> None:
        """Raises RunError, on every rank, where the run must not go on after a step that was left out."""
        told = f"step {step}: {reason.replace('_', ' ')}; the weights were not moved. Samples of this rank: {keys}"
        if self.spec.on_nonfinite == "stop" and reason != "loss_spike":
            raise RunError(f"{told}; watch.on_nonfinite is stop. Look at it: python -m mmtrain.replay")
        if self.in_a_row > self.spec.max_skips:
            raise RunError(
                f"{told}; {self.in_a_row} steps in a row were left out (watch.max_skips: {self.spec.max_skips}). "
                "Look at them: python -m mmtrain.replay"
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "losses": list(self.losses),
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "empty": self.empty,
            "tasks": None if self.tasks is None else sorted(self.tasks),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.losses = deque(saved["losses"], maxlen=self.losses.maxlen)
        self.skipped, self.in_a_row, self.empty = saved["skipped"], saved["in_a_row"], saved["empty"]
        tasks = saved.get("tasks")
        self.tasks = None if tasks is None else set(tasks)


def quarantine(folder: Path, step: int, reason: Reason, keys: Sequence[str], world: World) -> None:
    """Append a step that was left out to the run's `quarantine.jsonl`: a line with the keys of each rank's samples. A
    call of all ranks, each with its own keys."""
    every: list[Any] = [list(keys)]
    if world.ranks > 1:
        every = [None] * world.ranks
        distributed.all_gather_object(every, list(keys))
    if world.rank:
        return
    with open(folder / QUARANTINE, "a") as file:
        for rank, held in enumerate(every):
            file.write(json.dumps({"step": step, "reason": reason, "rank": rank, "keys": held}) + "\n")


def quarantined(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's quarantine."""
    path = folder / QUARANTINE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may have cut the last one


def forget_quarantine(folder: Path, step: int) -> None:
    """Drop what was written of steps from `step` on, which a run that goes on from there will do again."""
    lines = quarantined(folder)
    kept = [line for line in lines if line["step"] < step]
    if len(kept) < len(lines):
        write_atomic(folder / QUARANTINE, "".join(json.dumps(line) + "\n" for line in kept).encode())
