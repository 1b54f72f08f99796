"""Averaged weights: an exponential moving average of what is trained, kept beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from mmdata.errors import SpecError
from mmdata.spec import Model
from mmtrain.checkpoint_folder import damage, read_info
from mmtrain.components import aliases
from mmtrain.rules import Setting
from mmtrain.state_tree import joined
from mmtrain.tensor_files import TensorFiles

if TYPE_CHECKING:
    from mmtrain.job import Job

PART = "ema"
"""Its name among a job's parts."""
Choice = Literal["auto", "ema", "raw"]
"""The averaged weights of a run, those that it trained, or (`auto`) the averaged ones if it keeps any."""


class EmaSpec(Model):
    """An average of weights over steps; export takes it unless it is told otherwise."""

    decay: float = Field(0.999, gt=0, lt=1)
    """What of the average is kept at each update."""
    every: int = Field(1, ge=1)
    """Steps between updates."""
    warmup: bool = True
    """Whether the first updates keep less: (1 + n) / (10 + n) of the average at update n, where that is less than
    `decay` (as in TensorFlow's ExponentialMovingAverage)."""


class Ema:
    """The averages of all parameters that are trained at some time, float32, by their names in the model."""

    def __init__(self, model: Any, settings: Mapping[str, Setting], spec: EmaSpec) -> None:
        named = aliases(model)
        self.spec = spec
        self.updates = 0
        self.values = {
            name: parameter.detach().float().clone()
            for name, parameter in model.named_parameters()
            if settings[named[name]].train
        }

    @torch.no_grad()
    def update(self, model: Any, step: int) -> None:
        """Take the weights after optimiser step `step` (from 0) into the average, where it is their turn."""
        if (step + 1) % self.spec.every:
            return
        decay = self.spec.decay
        if self.spec.warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in model.named_parameters():
            if name in self.values:
                self.values[name].lerp_(parameter.detach().float(), 1 - decay)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": dict(self.values)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.updates = int(saved["updates"])
        for name, value in self.values.items():
            value.copy_(saved["values"][name])


def put(model: Any, values: Mapping[str, torch.Tensor]) -> None:
    """Give parameters the values of their names, rounded to their own type; others stay."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in values:
                parameter.copy_(values[name])


def put_saved(checkpoint: Path, model: Any, choice: Choice = "auto") -> bool:
    """Give a whole model, which has the weights of a checkpoint, the averages that this keeps, unless `choice` is
    `raw`; whether it got any. Raises SpecError for `ema` where none are kept, and for averages that are damaged."""
    state = None if choice == "raw" else read_info(checkpoint)["parts"].get(PART)
    if state is None:
        if choice == "ema":
            raise SpecError(f"weights: {checkpoint} keeps no averaged weights (`ema` in its config); take raw")
        return False
    if (why := damage(checkpoint, ("parts",))) is not None:
        raise SpecError(f"{checkpoint}: {why}")
    files = TensorFiles(checkpoint, "parts") if state["values"] else None
    put(model, joined(state, files, {})["values"])
    return True


@contextmanager
def swapped(job: Job, choice: Choice = "auto") -> Iterator[bool]:
    """Inside, the job's model has its averaged weights, if the run keeps any and `choice` is not `raw` (the answer says
    so); afterwards it has its own again, to the bit, whatever happened inside."""
    ema = job.parts.get(PART)
    if not isinstance(ema, Ema) or choice == "raw":
        yield False
        return
    own = dict(job.model.named_parameters())
    kept = {name: own[name].detach().clone() for name in ema.values}
    try:
        put(job.model, ema.values)
        yield True
    finally:
        put(job.model, kept)
